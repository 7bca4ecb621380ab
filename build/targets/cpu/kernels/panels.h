/* Weights packed in panels of 64 output columns: which thread multiplies which panel with which rows, and what it
 * prefetches meanwhile.
 *
 * A panel holds its columns for every k, group by group, so a thread keeps it in its cache while rows stream past. The
 * last panel is filled with zero columns. A piece of work is one panel and a block of rows; every thread begins with a
 * share of neighbouring panels, so that its weights are one stream. */
#ifndef INFLIGHT_PANELS_H
#define INFLIGHT_PANELS_H

#include "pool.h"
#include "tile.h"

#define PANEL 64
#define BLOCK_ROWS 96     /* at most: their float32 sums for one panel are 24 KiB */
#define MOST_LOOKING 8    /* tiles that share the prefetching; later ones find the next panel prefetched */
#define STREAM_AHEAD 4096 /* bytes */

typedef float panel_tile[TILE_ROWS][PANEL];

typedef struct {
    int64_t panel, first, count; /* one panel, and the rows it meets */
    const void *columns;
    const void *next; /* what this thread will probably read after this panel; NULL: nothing new */
} panel_piece;

/* How the rows are cut: enough pieces to keep every thread busy to the end, none so small that a panel is loaded in
 * vain. */
INLINE int64_t row_blocks(const pool *p, int64_t rows, int64_t panels) {
    int64_t wanted = ceil_div(4 * p->threads, panels);
    return max_int(ceil_div(rows, BLOCK_ROWS), min_int(wanted, rows / (4 * TILE_ROWS)));
}

/* The rows of block `block` of as many as `blocks`: whole tiles in all but the last. */
INLINE panel_piece block_of_rows(int64_t panel, int64_t block, int64_t blocks, int64_t rows) {
    const int64_t tiles = ceil_div(rows, TILE_ROWS), first = tiles * block / blocks * TILE_ROWS;
    return (panel_piece){panel, first, min_int(rows, tiles * (block + 1) / blocks * TILE_ROWS) - first, NULL, NULL};
}

/* The next piece of this operator; 0 when there is none left. */
INLINE int take_panel(pool *p, int thread, int64_t panels, int64_t panel_bytes, int64_t rows, const void *weight,
                      panel_piece *piece) {
    if (rows == 0) return 0;
    const int64_t blocks = row_blocks(p, rows, panels), item = pool_take_near(p, thread, panels * blocks);
    if (item < 0) return 0;
    const int64_t block = item % blocks;
    *piece = block_of_rows(item / blocks, block, blocks, rows);
    piece->columns = (const unsigned char *)weight + piece->panel * panel_bytes;
    piece->next = (const unsigned char *)piece->columns + panel_bytes;
    if (block + 1 < blocks) piece->next = NULL;
    else if (item + 1 == share_start(p, thread + 1, panels * blocks)) piece->next = p->shares[thread].expected;
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
