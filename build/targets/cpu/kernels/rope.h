/* Between the q/k/v projection and attention: head norms, rotation, and the write into the paged cache. */
#ifndef INFLIGHT_ROPE_H
#define INFLIGHT_ROPE_H

#include "cache.h"
#include "hadamard.h"
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

/* Queries at a position times the factor of it. */
INLINE void scale_head(int64_t head_size, float factor, float *x) {
    for (int64_t i = 0; i < head_size; i++) x[i] *= factor;
}

/* `last`: the norm comes behind the rotation. */
INLINE void rotate_head(int64_t head_size, int64_t rotary, float epsilon, int last, const float *norm, const float *x,
                        const float *cos, const float *sin, float *y) {
    float between[head_size];
    if (norm && last) {
        rotate(head_size, rotary, x, cos, sin, between);
        normalize_row(F32, head_size, epsilon, between, norm, y);
        return;
    }
    if (norm) {
        normalize_row(F32, head_size, epsilon, x, norm, between);
        x = between;
    }
    rotate(head_size, rotary, x, cos, sin, y);
}

/* A head's levels and their scale: 127 at its greatest magnitude, or, of four bits, -8 at it, whatever its sign, of the
 * rotated head (hadamard.h). The products of attention read levels as unsigned bytes, offset by 128 or 8 (qdot.h). */
INLINE float quantize_head(cache_shape s, const float *x, uint8_t *levels) {
    const int64_t d = s.head_size;
    const quantized_row row = {1, d, d};
    int8_t digits[digit_stride(d)];
    float scale, rotated[d];
    if (s.type == I8) {
        quantize_row(row, (row_values){F32, x, NULL, 1.0f}, digits, &scale);
        for (int64_t i = 0; i < d; i++) levels[i] = (uint8_t)(digits[i] + 128);
        return scale;
    }
    spread_head(d, x, rotated);
    const row_values values = {F32, rotated, NULL, 1.0f};
    const float greatest = greatest_magnitude(values, d);
    float low = 0.0f;
    for (int64_t i = 0; i < d; i++) low = rotated[i] < low ? rotated[i] : low;
    scale = (-low == greatest ? greatest : -greatest) / 8.0f;
    if (greatest < 8.0f * SMALLEST_NORMAL) scale = 0.0f;
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    for (int64_t i = 0; i < d; i += LANES) {
        const i32x16 level = round_to_int(values_at(values, d, i) * inverse), most = splat_int(7);
        store_bytes(digits + i, ((level > most) & most) | (~(level > most) & level));
    }
    for (int64_t i = 0; i < d; i++) levels[i] = (uint8_t)((digits[i] + 8) & 15);
    return scale;
}

/* `levels` of a token to their places, of a key or a value; two of four bits make a byte. */
INLINE void write_levels(cache_shape s, int key, uint8_t *block, int64_t token, const uint8_t *levels) {
    const int64_t d = s.head_size, apart = s.type == I8 ? 0 : key ? cache_group(I4) : LANES;
    for (int64_t i = 0; i < d; i++) {
        if (apart && i / apart % 2) continue;
        const uint8_t upper = apart && i + apart < d ? (uint8_t)(levels[i + apart] << 4) : 0;
        block[key ? key_place(s, token, i) : value_place(s, token, i)] = levels[i] | upper;
    }
}

/* A head of bfloat16: rounded 16 elements at a time, and stored in pairs where those lie together. */
INLINE void write_bf16(cache_shape s, int key, uint16_t *block, int64_t token, const float *x) {
    const int64_t d = s.head_size;
    uint16_t halves[round_up(d, LANES)];
    for (int64_t i = 0; i < d; i += LANES) store16(BF16, halves, i, load_until(F32, x, i, d));
    if (!key) {
        for (int64_t i = 0; i < d; i++) block[value_place(s, token, i)] = halves[i];
        return;
    }
    for (int64_t i = 0; i + 1 < d; i += 2) memcpy(block + key_place(s, token, i), halves + i, 2 * sizeof *halves);
    if (d % 2) block[key_place(s, token, d - 1)] = halves[d - 1];
}

/* A head to its place in a block, of a key or a value; `factor` is what numbers of E4M3 are multiplied by when read. */
INLINE void write_head(cache_shape s, int key, void *block, int64_t token, const float *x, float factor) {
    const int64_t d = s.head_size;
    uint8_t bytes[round_up(d, LANES)];
    if (has_levels(s.type)) {
        (key ? key_scales(s, block) : value_scales(s, block))[token] = quantize_head(s, x, bytes);
        write_levels(s, key, block, token, bytes);
        return;
    }
    for (int64_t i = 0; i < d && s.type == E4M3; i += LANES)
        store_e4m3(bytes + i, round_to_e4m3(load_until(F32, x, i, d) / splat(factor)));
    if (s.type == BF16) {
        write_bf16(s, key, block, token, x);
        return;
    }
    for (int64_t i = 0; i < d; i++) {
        const int64_t place = key ? key_place(s, token, i) : value_place(s, token, i);
        if (s.type == E4M3) ((uint8_t *)block)[place] = bytes[i];
        else store1(s.type, block, place, x[i]);
    }
}

INLINE void write_key(cache_shape s, void *block, int64_t token, const float *key, float factor) {
    write_head(s, 1, block, token, key, factor);
}

/* Values are read in groups of tokens. Whoever writes the last token of a step also clears the rest of its group, which
 * attention multiplies by zero: it must be a finite number whatever used the block before. Bytes always are. */
INLINE void write_value(cache_shape s, void *block, int64_t token, int last, const float *value, float factor) {
    write_head(s, 0, block, token, value, factor);
    if (!last || element_size(s.type) == 1) return;
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
 * The norms are NULL when the model has none; the tables are [positions][rotary / 2], NULL when nothing is rotated;
 * q_factors, [positions], multiply queries, or are NULL. A piece of work is one head of one row. Other factors: of a
 * cache of E4M3. */
INLINE void rope_cache_write(pool *p, int thread, cache_shape s, int64_t num_heads, int64_t rotary, float epsilon,
                             int norm_last, const token_rows *t, const float *qkv, const float *q_norm,
                             const float *k_norm, const float *cos, const float *sin, const float *q_factors, float *q,
                             void *keys, void *values, float key_factor, float value_factor) {
    const int64_t d = s.head_size, heads = num_heads + 2 * s.num_kv_heads;
    for (int64_t i = share_start(p, thread, t->rows * heads); i < share_start(p, thread + 1, t->rows * heads); i++) {
        int64_t row = i / heads, head = i % heads, position = t->positions[row];
        const float *x = qkv + i * d, *c = cos + position * (rotary / 2), *z = sin + position * (rotary / 2);
        if (head < num_heads) {
            float *query = q + (row * num_heads + head) * d;
            rotate_head(d, rotary, epsilon, norm_last, q_norm, x, c, z, query);
            if (q_factors) scale_head(d, q_factors[position], query);
            continue;
        }
        int64_t block = block_of(t, row, s.tokens_per_block), token = position % s.tokens_per_block;
        int64_t kv_head = (head - num_heads) % s.num_kv_heads;
        if (head < num_heads + s.num_kv_heads) {
            float key[d];
            rotate_head(d, rotary, epsilon, norm_last, k_norm, x, c, z, key);
            write_key(s, key_block(s, keys, block, kv_head), token, key, key_factor);
        } else {
            write_value(s, value_block(s, values, block, kv_head), token, last_of_sequence(t, row), x, value_factor);
        }
    }
}

#endif
