/* Products of each head with a matrix of its own, as latent attention has them before and behind it. */
#ifndef INFLIGHT_HEAD_LINEAR_H
#define INFLIGHT_HEAD_LINEAR_H

#include "linear.h"

typedef struct {
    element type;
    int64_t heads, k, n;
    int64_t row_size; /* elements of a head's row of x, of which the first k are multiplied */
    int64_t x_width, y_width; /* of rows, which may have more behind those of all heads */
} head_products;

/* y [rows][y_width] float32, n of each head = x [rows][x_width] act, row_size of each head, times the head's panels. All of them are one list of pieces
 * (head, panel, block of rows) that threads share. */
INLINE void head_linear(pool *p, int thread, head_products s, int64_t rows, const void *x, const void *weight,
                        float *y) {
    if (rows == 0) return;
    product all = {s.type, s.k, s.n, rows, x, weight, NULL, NULL, y, NO_ACTIVATION};
    all.x_stride = s.x_width, all.y_stride = s.y_width;
    const int64_t panels = panels_of(all), bytes = panel_bytes(s.type, s.k);
    const int64_t blocks = row_blocks(p, rows, s.heads * panels);
    product_work work;
    work.configured = 0;
    for (;;) {
        const shared_piece taken = pool_take_near(p, thread, s.heads * panels * blocks, 1);
        if (taken.number < 0) break;
        const int64_t matrix = taken.number / blocks, head = matrix / panels, block = taken.number % blocks;
        panel_piece piece = block_of_rows(matrix % panels, block, blocks, rows);
        piece.columns = (const unsigned char *)weight + matrix * bytes;
        piece.block = block, piece.blocks = blocks;
        const int last = taken.number + blocks - block >= taken.end;
        piece.following = last ? p->shares[thread].expected : (const unsigned char *)piece.columns + bytes;
        product own = all;
        own.x = at(act_type(s.type), x, head * s.row_size);
        own.y = y + head * s.n;
        multiply_piece(own, piece, &work);
    }
    end_pieces(&work);
}

#endif
