/* Rows of tables: token embeddings, and the rows whose logits are wanted. */
#ifndef INFLIGHT_EMBEDDING_H
#define INFLIGHT_EMBEDDING_H

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "abi.h"
#include "linear.h"

#define STORED_AT_ONCE 4096

/* A table that begins at `offset` of a file; *status tells that the file could not be read. */
typedef struct {
    int32_t file;
    int64_t offset;
    int32_t *status;
} stored_table;

static void read_stored(const stored_table *t, int64_t offset, void *bytes, int64_t size) {
    ssize_t got;
    do got = pread(t->file, bytes, (size_t)size, (off_t)(t->offset + offset));
    while (got < 0 && errno == EINTR);
    if (got != size) __atomic_store_n(t->status, INFLIGHT_FILE, __ATOMIC_RELAXED);
}

/* Ask for a part of the file. What the system has not in memory is then read while others are asked for: one after
 * another, rows of a table that nobody has read yet take longer than a layer of a prompt. */
static void ask_for_stored(const stored_table *t, int64_t offset, int64_t size) {
    (void)posix_fadvise(t->file, (off_t)(t->offset + offset), (off_t)size, POSIX_FADV_WILLNEED);
}

/* x [rows][width] = the rows of the table with those numbers, times `scale`. */
INLINE void embedding_lookup(pool *p, int thread, element type, int64_t width, float scale, int64_t rows,
                             const int32_t *ids, const stored_table *table, float *x) {
    const int64_t size = element_size(type), at_once = STORED_AT_ONCE / size;
    const int64_t start = share_start(p, thread, rows), end = share_start(p, thread + 1, rows);
    _Alignas(CACHE_LINE) unsigned char stored[STORED_AT_ONCE] = {0};
    for (int64_t row = start; end - start > 1 && row < end; row++)
        ask_for_stored(table, ids[row] * width * size, width * size);
    for (int64_t row = start; row < end; row++) {
        for (int64_t first = 0; first < width; first += at_once) {
            const int64_t count = min_int(at_once, width - first);
            read_stored(table, (ids[row] * width + first) * size, stored, count * size);
            for (int64_t i = 0; i < count; i++) x[row * width + first + i] = load1(type, stored, i) * scale;
        }
    }
}

/* The same from the packed panels of the vocabulary projection, when the two share their weights. */
INLINE void embedding_lookup_packed(pool *p, int thread, element type, int64_t width, float scale, int64_t rows,
                                    const int32_t *ids, const void *panels, float *x) {
    const int64_t group = group_of(type);
    for (int64_t row = share_start(p, thread, rows); row < share_start(p, thread + 1, rows); row++) {
        const void *panel = (const unsigned char *)panels + ids[row] / PANEL * panel_bytes(type, width);
        for (int64_t i = 0; i < width; i++) {
            int64_t place = (i / group * PANEL + ids[row] % PANEL) * group + i % group;
            x[row * width + i] = load1(type, panel, place) * scale;
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
