/* AMX: eight tile registers of up to 16 rows of 64 bytes, and products of two of them.
 *
 * A tile of activations is one block of k, 64 bytes, of up to 16 rows as they lie in memory. A tile of weights is 16
 * lines of a panel, 16 columns of each: four bytes of k of a column lie together, just as panels have them (panels.h).
 * Tiles 0 to 3 are sums: 64 columns of up to 16 rows (wide), or 32 columns of up to 32 rows, since four products in
 * turn hide the time that one takes.
 *
 * Linux must have been asked for permission before (the loader does). Tiles belong to a thread: it configures them in
 * every operator, and releases them behind it, since until then each change of tasks would save them. */
#ifndef INFLIGHT_AMX_H
#define INFLIGHT_AMX_H

#include <immintrin.h>

#include "panels.h"

#define AMX_HEIGHT 16  /* rows of a tile */
#define AMX_ROWS 32    /* of one product, at most */
#define BLOCK_BYTES 64 /* of a row: 64 digits, or 32 bfloat16 */
#define BLOCK_LINES 16 /* of a panel */
#define LINE_BYTES 256 /* 64 columns of four bytes */

/* What LDTILECFG reads. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_configuration;

INLINE int is_wide(int64_t rows) { return rows <= AMX_HEIGHT; }

/* Tiles for products of `rows` rows, 1 to AMX_ROWS, in blocks of `block` bytes of them; nothing is done when they are
 * `configured` for the same already. What they held is lost. */
static void configure_tiles(int64_t rows, int64_t block, int64_t *configured) {
    if (*configured == rows * 256 + block) return;
    const uint8_t upper = (uint8_t)min_int(rows, AMX_HEIGHT), lower = (uint8_t)(rows - upper), wide = is_wide(rows);
    const uint8_t lines = (uint8_t)(block / 4);
    tile_configuration c = {.palette = 1};
    for (int i = 0; i < 8; i++) c.row_bytes[i] = BLOCK_BYTES;
    for (int i = 4; i < (wide ? 5 : 6); i++) c.row_bytes[i] = (uint16_t)block;
    const uint8_t heights[2][8] = {{upper, upper, lower, lower, upper, lower, lines, lines},
                                   {upper, upper, upper, upper, upper, lines, lines, lines}};
    memcpy(c.rows, heights[wide], sizeof heights[0]);
    _tile_loadconfig(&c);
    *configured = rows * 256 + block;
}

/* `configured`: as configure_tiles left it, 0 if it was never called. */
INLINE void release_tiles(int64_t configured) {
    if (configured) _tile_release();
}

INLINE void clear_tiles(void) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* Tiles 2 and 3 hold the columns beside those of the first two when wide, else the rows below. Vectors of columns are
 * `vector` bytes apart, rows `row` bytes. */
INLINE void load_tiles(int wide, const void *sums, int64_t vector, int64_t row) {
    const unsigned char *first = sums, *third = first + (wide ? 2 * vector : AMX_HEIGHT * row);
    _tile_loadd(0, first, row);
    _tile_loadd(1, first + vector, row);
    _tile_loadd(2, third, row);
    _tile_loadd(3, third + vector, row);
}

INLINE void store_tiles(int wide, void *sums, int64_t vector, int64_t row) {
    unsigned char *first = sums, *third = first + (wide ? 2 * vector : AMX_HEIGHT * row);
    _tile_stored(0, first, row);
    _tile_stored(1, first + vector, row);
    _tile_stored(2, third, row);
    _tile_stored(3, third + vector, row);
}

/* What tiles of weights hold; rows hold bfloat16 pairs, or signed bytes. */
typedef enum { BFLOAT16_PAIRS, UNSIGNED_BYTES, SIGNED_BYTES } tile_weights;

/* Tiles are named by literals. */
#define MULTIPLY_TILES(type, sums, x, weights)                                 \
    do {                                                                       \
        if ((type) == BFLOAT16_PAIRS) _tile_dpbf16ps(sums, x, weights);        \
        else if ((type) == UNSIGNED_BYTES) _tile_dpbsud(sums, x, weights);     \
        else _tile_dpbssd(sums, x, weights);                                   \
    } while (0)

/* Prefetch a vector of columns of as many lines as a block has; `lines` may be NULL. */
INLINE void ask_for_tile(const unsigned char *lines, int64_t line) {
    if (!lines) return;
    UNROLL for (int i = 0; i < BLOCK_LINES; i++) __builtin_prefetch(lines + i * line, 0, 2);
}

/* sums += a block of the rows at x (x_stride bytes apart) times as many lines of weights, `line` bytes apart; vectors of
 * columns are `vector` bytes apart. When wide, the vectors of the block at `next` (NULL: of none) are prefetched beside
 * those that are read: all of them at once would hold up the reads. */
INLINE void multiply_block_ahead(tile_weights type, int wide, const void *x, int64_t x_stride, const void *lines,
                                 int64_t vector, int64_t line, const unsigned char *next) {
    const unsigned char *w = lines;
    _tile_loadd(4, x, x_stride);
    if (wide) {
        ask_for_tile(next, line);
        _tile_loadd(5, w, line);
        MULTIPLY_TILES(type, 0, 4, 5);
        ask_for_tile(next ? next + vector : NULL, line);
        _tile_loadd(6, w + vector, line);
        MULTIPLY_TILES(type, 1, 4, 6);
        ask_for_tile(next ? next + 2 * vector : NULL, line);
        _tile_loadd(7, w + 2 * vector, line);
        MULTIPLY_TILES(type, 2, 4, 7);
        ask_for_tile(next ? next + 3 * vector : NULL, line);
        _tile_loadd(5, w + 3 * vector, line);
        MULTIPLY_TILES(type, 3, 4, 5);
        return;
    }
    _tile_loadd(6, w, line);
    MULTIPLY_TILES(type, 0, 4, 6);
    _tile_loadd(7, w + vector, line);
    MULTIPLY_TILES(type, 1, 4, 7);
    _tile_loadd(5, (const unsigned char *)x + AMX_HEIGHT * x_stride, x_stride);
    MULTIPLY_TILES(type, 2, 5, 6);
    MULTIPLY_TILES(type, 3, 5, 7);
}

INLINE void multiply_block(tile_weights type, int wide, const void *x, int64_t x_stride, const void *lines,
                           int64_t vector, int64_t line) {
    multiply_block_ahead(type, wide, x, x_stride, lines, vector, line, NULL);
}

/* How many rows each tile of a piece has. All are of one height, so that they need one configuration: where `count` is
 * no multiple of it, the last tile begins early and computes some rows once more. */
INLINE int64_t amx_height(int64_t count, int64_t most) { return ceil_div(count, ceil_div(count, most)); }
INLINE int64_t amx_tile_start(int64_t count, int64_t height, int64_t index) {
    return min_int(index * height, count - height);
}
/* Those rows: they are stored already, and the residual that they would be added to may be what was stored. */
INLINE int64_t amx_rows_again(int64_t count, int64_t height, int64_t index) {
    return index * height - amx_tile_start(count, height, index);
}

/* Passes over the columns of a panel that a tile makes. */
INLINE int64_t amx_passes(int64_t rows) { return is_wide(rows) ? 1 : 2; }

/* What tile `index` of `tiles`, which pass over `groups` groups of weights at `columns`, prefetches: each its part of as
 * many bytes at `next`, so that they come as evenly as they can. A wide tile alone prefetches ahead of its own reads. */
INLINE look_ahead amx_look_ahead(const void *columns, const void *next, int64_t group_bytes, int64_t groups,
                                 int64_t index, int64_t tiles, int64_t rows) {
    if (tiles == 1 && is_wide(rows)) return tile_look_ahead(columns, next, group_bytes, groups, 0, 1);
    if (!next) return (look_ahead){NULL, 0};
    const int64_t passes = amx_passes(rows), bytes = ceil_div(group_bytes, tiles * passes);
    return (look_ahead){(const unsigned char *)next + index * bytes * groups * passes, bytes};
}

/* Whether whole lines are prefetched: those of a tile alone. */
INLINE int asks_for_lines(const look_ahead *ahead) { return ahead->bytes == LINE_BYTES; }

/* Prefetch `groups` groups of `ahead` into the second-level cache. */
INLINE void ask_for_block(int64_t groups, look_ahead *ahead) {
    const int64_t bytes = ahead->bytes * groups;
    for (int64_t i = 0; i < bytes; i += CACHE_LINE) __builtin_prefetch(ahead->next + i, 0, 2);
    ahead->next += bytes;
}

#endif
