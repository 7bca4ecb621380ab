/* Between the q/k/v projection and attention: head norms, rotation, and the write into the paged cache. */
#ifndef INFLIGHT_ROPE_H
#define INFLIGHT_ROPE_H

#include "cache.h"
#include "quantize.h"

/* Su et al., RoFormer, on halves ("neox" style) of the first `rotary` values of a head: (x1, x2) -> (x1 cos - x2 sin,
 * x2 cos + x1 sin). The others stay as they are. */
INLINE void rotate(int64_t head_size, int64_t rotary, const float *x, const float *cos, const float *sin, float *y) {
    int64_t half = rotary / 2;
    for (int64_t i = 0; i < half; i++) {
        float first = x[i], second = x[i + half];
        y[i] = first * cos[i] - second * sin[i];
        y[i + half] = second * cos[i] + first * sin[i];
    }
    for (int64_t i = rotary; i < head_size; i++) y[i] = x[i];
}

INLINE void rotate_head(int64_t head_size, int64_t rotary, float epsilon, const float *norm, const float *x,
                        const float *cos, const float *sin, float *y) {
    float normalized[head_size];
    if (norm) {
        normalize_row(F32, head_size, epsilon, x, norm, normalized);
        x = normalized;
    }
    rotate(head_size, rotary, x, cos, sin, y);
}

/* A head's levels, 127 at its greatest magnitude, and their scale. The products of attention read levels as unsigned
 * bytes, offset by 128 (qdot.h). */
INLINE float quantize_head(cache_shape s, const float *x, uint8_t *levels) {
    const quantized_row row = {1, s.head_size, s.head_size};
    int8_t digits[digit_stride(s.head_size)];
    float scale;
    quantize_row(row, (row_values){F32, x, NULL, 1.0f}, digits, &scale);
    for (int64_t d = 0; d < s.head_size; d++) levels[d] = (uint8_t)(digits[d] + 128);
    return scale;
}

INLINE void write_key(cache_shape s, void *block, int64_t token, const float *key) {
    if (s.type == I8) {
        uint8_t levels[s.head_size];
        key_scales(s, block)[token] = quantize_head(s, key, levels);
        for (int64_t d = 0; d < s.head_size; d++) ((uint8_t *)block)[key_place(s, token, d)] = levels[d];
        return;
    }
    for (int64_t d = 0; d < s.head_size; d++) store1(s.type, block, key_place(s, token, d), key[d]);
}

/* Values are read in groups of tokens. Whoever writes the last token of a step also clears the rest of its group, which
 * attention multiplies by zero: it must be a finite number whatever used the block before. Integers always are. */
INLINE void write_value(cache_shape s, void *block, int64_t token, int last, const float *value) {
    if (s.type == I8) {
        uint8_t levels[s.head_size];
        value_scales(s, block)[token] = quantize_head(s, value, levels);
        for (int64_t d = 0; d < s.head_size; d++) ((uint8_t *)block)[value_place(s, token, d)] = levels[d];
        return;
    }
    for (int64_t d = 0; d < s.head_size; d++) store1(s.type, block, value_place(s, token, d), value[d]);
    if (!last) return;
    for (int64_t t = token + 1; t % cache_group(s.type); t++)
        for (int64_t d = 0; d < s.head_size; d++) store1(s.type, block, value_place(s, t, d), 0.0f);
}

/* The rows of a step and where their tokens live. */
typedef struct {
    int64_t rows, num_sequences, block_table_stride;
    const int32_t *positions, *sequence_of_row, *sequence_starts, *block_tables;
} token_rows;

INLINE int64_t block_of(const token_rows *t, int64_t row, int64_t tokens_per_block) {
    return t->block_tables[t->sequence_of_row[row] * t->block_table_stride + t->positions[row] / tokens_per_block];
}

INLINE int last_of_sequence(const token_rows *t, int64_t row) {
    return row + 1 == t->rows || t->sequence_of_row[row + 1] != t->sequence_of_row[row];
}

/* qkv [rows][(num_heads + 2 num_kv_heads) D] -> rotated q [rows][num_heads D], keys and values into the cache.
 * The norms are NULL when the model has none; the tables are [positions][rotary / 2], NULL when nothing is rotated. A
 * piece of work is one head of one row. */
INLINE void rope_cache_write(pool *p, int thread, cache_shape s, int64_t num_heads, int64_t rotary, float epsilon,
                             const token_rows *t, const float *qkv, const float *q_norm, const float *k_norm,
                             const float *cos, const float *sin, float *q, void *keys, void *values) {
    const int64_t d = s.head_size, heads = num_heads + 2 * s.num_kv_heads;
    for (int64_t i = share_start(p, thread, t->rows * heads); i < share_start(p, thread + 1, t->rows * heads); i++) {
        int64_t row = i / heads, head = i % heads, position = t->positions[row];
        const float *x = qkv + i * d, *c = cos + position * (rotary / 2), *z = sin + position * (rotary / 2);
        if (head < num_heads) {
            rotate_head(d, rotary, epsilon, q_norm, x, c, z, q + (row * num_heads + head) * d);
            continue;
        }
        int64_t block = block_of(t, row, s.tokens_per_block), token = position % s.tokens_per_block;
        int64_t kv_head = (head - num_heads) % s.num_kv_heads;
        if (head < num_heads + s.num_kv_heads) {
            float key[d];
            rotate_head(d, rotary, epsilon, k_norm, x, c, z, key);
            write_key(s, key_block(s, keys, block, kv_head), token, key);
        } else {
            write_value(s, value_block(s, values, block, kv_head), token, last_of_sequence(t, row), x);
        }
    }
}

#endif
