/* Weights packed in panels of 64 output columns: which thread multiplies which panel with which rows, and what it
 * prefetches meanwhile.
 *
 * A panel holds its columns for every k, group by group, so a thread keeps it in its cache while rows stream past. The
 * last panel is filled with zero columns. A piece of work is one panel and a block of rows; every thread begins with a
 * share of neighbouring panels, so that its weights are one stream. It passes over them once for as many blocks of rows
 * as its cache holds beside a panel. Of many rows it begins with a share of those, and passes over all panels. */
#ifndef INFLIGHT_PANELS_H
#define INFLIGHT_PANELS_H

#include "pool.h"
#include "tile.h"

#define PANEL 64
#define BLOCK_ROWS 96     /* at most: their float32 sums for one panel are 24 KiB */
/* Bytes of rows that stay in a core's cache while panels stream past. Only tiles of AMX multiply faster than rows come
 * from further away. */
#if defined(__AMX_INT8__)
#define CACHED_BYTES (5 << 18)
#define OWN_ROWS INT64_MAX
#else
#define CACHED_BYTES INT64_MAX
#define OWN_ROWS 192 /* from so many on, of each thread, weights that every thread reads cost little beside products */
#endif
/* Bytes that a tile prefetches ahead of its own reads where it computes as fast as it reads. On Intel's servers memory is
 * far away, half a microsecond under load; AVX-512 without bfloat16, or with AMX, is theirs. Measured on one of them and
 * on a Zen 4. */
#if defined(__AVX512F__) && (defined(__AMX_INT8__) || !defined(__AVX512BF16__))
#define STREAM_AHEAD 8192
#else
#define STREAM_AHEAD 1024
#endif
#define MOST_LOOKING 8    /* tiles that share the prefetching; later ones find the next panel prefetched */

typedef float panel_tile[TILE_ROWS][PANEL];

/* One panel, and the rows that it meets: block `block` of `blocks` that meet it one after the other. */
typedef struct {
    int64_t panel, first, count, block, blocks;
    const void *columns;
    const void *following; /* what this thread will probably read after this panel; NULL: nothing new */
} panel_piece;

/* The same, for the last of the blocks alone. */
INLINE const void *next_panel(const panel_piece *piece) {
    return piece->block + 1 < piece->blocks ? NULL : piece->following;
}

/* How the rows are cut: enough pieces to keep every thread busy to the end, none so small that a panel is loaded in
 * vain. */
INLINE int64_t row_blocks(const pool *p, int64_t rows, int64_t panels) {
    int64_t wanted = ceil_div(4 * p->threads, panels);
    return max_int(ceil_div(rows, BLOCK_ROWS), min_int(wanted, rows / (4 * TILE_ROWS)));
}

/* The rows of block `block` of as many as `all`: whole tiles in all but the last. Nothing is known of memory. */
INLINE panel_piece block_of_rows(int64_t panel, int64_t block, int64_t all, int64_t rows) {
    const int64_t tiles = ceil_div(rows, TILE_ROWS), first = tiles * block / all * TILE_ROWS;
    const int64_t count = min_int(rows, tiles * (block + 1) / all * TILE_ROWS) - first;
    return (panel_piece){panel, first, count, 0, 1, NULL, NULL};
}

/* Whether threads begin with rows of their own. What works on rows alone shares them out alike, so that it finds in its
 * core's cache what was written there. */
INLINE int rows_are_shared(const pool *p, int64_t rows) { return p->threads > 1 && rows / p->threads >= OWN_ROWS; }

/* take_panel of rows that are shared. */
INLINE int take_panel_of_own_rows(pool *p, int thread, int64_t panels, int64_t panel_bytes, int64_t rows,
                                  const void *weight, panel_piece *piece) {
    const int64_t all = round_up(row_blocks(p, rows, panels), p->threads);
    const shared_piece taken = pool_take_near(p, thread, panels * all, panels);
    if (taken.number < 0) return 0;
    const int64_t blocks = (taken.end - taken.start) / panels, number = taken.number - taken.start;
    *piece = block_of_rows(number / blocks, taken.start / panels + number % blocks, all, rows);
    piece->block = number % blocks, piece->blocks = blocks;
    piece->columns = (const unsigned char *)weight + piece->panel * panel_bytes;
    piece->following = piece->panel + 1 < panels ? (const unsigned char *)piece->columns + panel_bytes
                                                 : p->shares[thread].expected;
    return 1;
}

/* The next piece of this operator, whose rows have `row_bytes`; 0 when there is none left. */
INLINE int take_panel(pool *p, int thread, int64_t panels, int64_t panel_bytes, int64_t rows, int64_t row_bytes,
                      const void *weight, panel_piece *piece) {
    if (rows == 0) return 0;
    if (rows_are_shared(p, rows)) return take_panel_of_own_rows(p, thread, panels, panel_bytes, rows, weight, piece);
    const int64_t all = row_blocks(p, rows, panels), block_bytes = ceil_div(rows, all) * row_bytes;
    const int64_t cached = min_int(all, max_int(1, CACHED_BYTES / block_bytes));
    /* Shares of whole panels where they are passed over more than once. */
    const shared_piece taken = pool_take_near(p, thread, panels * all, cached < all ? all : 1);
    if (taken.number < 0) return 0;
    const int64_t start = cached < all ? taken.start : 0, end = cached < all ? taken.end : panels * all;
    const int64_t number = taken.number - start, mine = (end - start) / all;
    const int64_t pass = number / (mine * cached), first = pass * cached;
    const int64_t blocks = min_int(cached, all - first), panel = (number - mine * first) / blocks;
    const int64_t block = (number - mine * first) % blocks;
    *piece = block_of_rows(start / all + panel, first + block, all, rows);
    piece->block = block, piece->blocks = blocks;
    piece->columns = (const unsigned char *)weight + piece->panel * panel_bytes;
    piece->following = (const unsigned char *)piece->columns + panel_bytes;
    if (taken.number + piece->blocks - piece->block >= taken.end) piece->following = p->shares[thread].expected;
    else if (panel + 1 == mine) piece->following = (const unsigned char *)weight + start / all * panel_bytes;
    return 1;
}

/* What tile `index` of `tiles`, which pass over `groups` groups of weights at `columns`, prefetches: each its part of
 * as many bytes at `next`. A tile alone reads weights at the memory's bandwidth; it prefetches a little ahead of its
 * own reads, since the hardware's prefetching stops at the end of a page. */
INLINE look_ahead tile_look_ahead(const void *columns, const void *next, int64_t group_bytes, int64_t groups,
                                  int64_t index, int64_t tiles) {
    if (tiles == 1) return (look_ahead){(const unsigned char *)columns + STREAM_AHEAD, group_bytes};
    const int64_t sharing = min_int(tiles, MOST_LOOKING), bytes = ceil_div(group_bytes, sharing);
    if (!next || index >= sharing) return (look_ahead){NULL, 0};
    return (look_ahead){(const unsigned char *)next + index * bytes * groups, bytes};
}

#endif
