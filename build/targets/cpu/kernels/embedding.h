/* Rows of tables: token embeddings, and the rows whose logits are wanted. */
#ifndef INFLIGHT_EMBEDDING_H
#define INFLIGHT_EMBEDDING_H

#include "linear.h"

INLINE void embedding_lookup(pool *p, int thread, element type, int64_t width, int64_t rows, const int32_t *ids,
                             const void *table, float *x) {
    for (int64_t row = share_start(p, thread, rows); row < share_start(p, thread + 1, rows); row++)
        for (int64_t i = 0; i < width; i++) x[row * width + i] = load1(type, table, ids[row] * width + i);
}

/* The same from the packed panels of the vocabulary projection, when the two share their weights. */
INLINE void embedding_lookup_packed(pool *p, int thread, element type, int64_t width, int64_t rows, const int32_t *ids,
                                    const void *panels, float *x) {
    const int64_t group = group_of(type);
    for (int64_t row = share_start(p, thread, rows); row < share_start(p, thread + 1, rows); row++) {
        const void *panel = (const unsigned char *)panels + ids[row] / PANEL * panel_bytes(type, width);
        for (int64_t i = 0; i < width; i++) {
            int64_t place = (i / group * PANEL + ids[row] % PANEL) * group + i % group;
            x[row * width + i] = load1(type, panel, place);
        }
    }
}

INLINE void gather_rows(pool *p, int thread, element type, int64_t width, int64_t rows, const int32_t *numbers,
                        const void *x, void *y) {
    const size_t row_bytes = (size_t)width * (size_t)element_size(type);
    for (int64_t row = share_start(p, thread, rows); row < share_start(p, thread + 1, rows); row++)
        memcpy((char *)y + (size_t)row * row_bytes, (const char *)x + (size_t)numbers[row] * row_bytes, row_bytes);
}

#endif
