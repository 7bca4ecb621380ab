/* Latent attention: the row of a token on its way into the cache, the queries that meet it, and its values.
 *
 * A row is [latent, normed | what turns], a query [what the head's matrix of keys made of its first elements | what
 * turns]. Attention reads rows as keys of one head; its values are their first elements, which lie in another order
 * (cache.h) and are made of the keys split by split, in a thread's own cache, for all heads together. */
#ifndef INFLIGHT_LATENT_H
#define INFLIGHT_LATENT_H

#include "attention_tile.h"

/* Bytes of the values of a split; something where there are none, since arrays are. */
INLINE int64_t latent_bytes(cache_shape s) {
    return s.latent ? blocks_per_split(s) * value_elements(s) * element_size(s.type) : 1;
}

/* x[i] lane j becomes x[j] lane i. */
INLINE void transpose_words(u32x16 *x) {
    UNROLL for (int step = 1; step < LANES; step *= 2) {
        UNROLL for (int i = 0; i < LANES; i++) {
            if (i & step) continue;
            const u32x16 a = x[i], b = x[i + step];
            const i32x16 upper = (lane_numbers() & splat_int(step)) != splat_int(0);
            u32x16 from_a, from_b;
            if (step == 1) {
                from_a = __builtin_shufflevector(a, a, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
                from_b = __builtin_shufflevector(b, b, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
            } else if (step == 2) {
                from_a = __builtin_shufflevector(a, a, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
                from_b = __builtin_shufflevector(b, b, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
            } else if (step == 4) {
                from_a = __builtin_shufflevector(a, a, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
                from_b = __builtin_shufflevector(b, b, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
            } else {
                from_a = __builtin_shufflevector(a, a, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
                from_b = __builtin_shufflevector(b, b, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
            }
            x[i] = (a & (u32x16)~upper) | (from_b & (u32x16)upper);
            x[i + step] = (from_a & (u32x16)~upper) | (b & (u32x16)upper);
        }
    }
}

/* 16 tokens of 16 float32 elements: `from` has an element of all tokens of a block side by side. */
INLINE void turn_floats(const uint32_t *from, int64_t tokens, uint32_t *to, int64_t width) {
    u32x16 x[LANES];
    UNROLL for (int d = 0; d < LANES; d++) memcpy(x + d, from + d * tokens, sizeof x[d]);
    transpose_words(x);
    UNROLL for (int t = 0; t < LANES; t++) memcpy(to + t * width, x + t, sizeof x[t]);
}

/* The same of 16 bits. */
INLINE void turn_halves(const uint16_t *from, int64_t tokens, uint16_t *to, int64_t width) {
    u32x16 x[LANES];
    UNROLL for (int d = 0; d < LANES; d++) {
        u16x16 line;
        memcpy(&line, from + d * tokens, sizeof line);
        x[d] = __builtin_convertvector(line, u32x16);
    }
    transpose_words(x);
    UNROLL for (int t = 0; t < LANES; t++) {
        const u16x16 line = __builtin_convertvector(x[t], u16x16);
        memcpy(to + t * width, &line, sizeof line);
    }
}

/* 16 tokens of 32 elements of 16 bits, which lie in pairs: a word is two elements of a token, and becomes two tokens of
 * an element. */
INLINE void turn_pairs(const uint32_t *from, int64_t tokens, uint32_t *to, int64_t width) {
    u32x16 x[LANES];
    UNROLL for (int p = 0; p < LANES; p++) {
        u32x16 pairs;
        memcpy(&pairs, from + p * tokens, sizeof pairs);
        const u32x16 even = __builtin_shufflevector(pairs, pairs, 0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
        const u32x16 odd = __builtin_shufflevector(pairs, pairs, 1, 3, 5, 7, 9, 11, 13, 15, 1, 3, 5, 7, 9, 11, 13, 15);
        const i32x16 second = lane_numbers() >= splat_int(LANES / 2);
        const u32x16 first = (even & 0xffffu) | odd << 16, other = even >> 16 | (odd & 0xffff0000u);
        x[p] = (first & (u32x16)~second) | (other & (u32x16)second);
    }
    transpose_words(x);
    UNROLL for (int t = 0; t < LANES / 2; t++) {
        const u32x16 a = x[t], b = x[t + LANES / 2];
        const u32x16 low = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        const u32x16 high = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        memcpy(to + t * width, &low, sizeof low);
        memcpy(to + t * width + LANES, &high, sizeof high);
    }
}

/* Elements from `d` on of tokens from `token` on, 16 tokens and whole groups. */
INLINE void turn_elements(cache_shape s, const void *keys, int64_t token, int64_t d, void *values) {
    for (int64_t i = d; i < s.latent; i++)
        for (int64_t t = token; t < token + LANES; t++) {
            const void *from = at(s.type, keys, key_place(s, t, i));
            memcpy(at(s.type, values, value_place(s, t, i)), from, (size_t)element_size(s.type));
        }
}

/* The values of a split's blocks. Behind its last token those of its group are zero, which attention multiplies by
 * zero: whatever used the block before, they are finite numbers. */
INLINE void split_latents(cache_shape s, void *keys, const split_view *view, void *to) {
    const int64_t width = padded_head(s), wide = s.type == BF16 ? 2 * LANES : LANES;
    const int vectors = element_size(s.type) > 1;
    for (int64_t n = view->skip; n < view->end; n++) {
        void *from = key_block(s, keys, view->blocks[n], view->head), *values = at(s.type, to, n * value_elements(s));
        const int64_t tokens = block_tokens(s, view, n);
        for (int64_t t = 0; t < tokens; t += LANES) {
            int64_t d = 0;
            for (; vectors && d + wide <= s.latent; d += wide) {
                const void *lines = at(s.type, from, key_place(s, t, d));
                void *rows = at(s.type, values, value_place(s, t, d));
                if (s.type == F32) turn_floats(lines, s.tokens_per_block, rows, width);
                else if (s.type == F16) turn_halves(lines, s.tokens_per_block, rows, width);
                else turn_pairs(lines, s.tokens_per_block, rows, width);
            }
            turn_elements(s, from, t, d, values);
        }
        for (int64_t t = tokens; element_size(s.type) > 1 && t % cache_group(s.type); t++)
            for (int64_t d = 0; d < width; d++) store1(s.type, values, value_place(s, t, d), 0.0f);
        if (has_levels(s.type))
            memcpy(value_scales(s, values), key_scales(s, from), (size_t)tokens * sizeof(float));
    }
}

/* q [rows][heads of q_size] and met [rows][heads of latent] -> queries [rows][heads of head_size]; kv [rows][head_size]
 * -> the cache. The last elements of q and kv turn. A piece of work is one head of one row, or the row's own. */
INLINE void latent_cache_write(pool *p, int thread, cache_shape s, int64_t num_heads, int64_t q_size, float epsilon,
                               const token_rows *t, const float *q, const float *met, const float *kv,
                               const float *norm, const float *cos, const float *sin, float *queries, void *keys,
                               float factor) {
    const int64_t d = s.head_size, rank = s.latent, rotary = d - rank, heads = num_heads + 1;
    for (int64_t i = share_start(p, thread, t->rows * heads); i < share_start(p, thread + 1, t->rows * heads); i++) {
        const int64_t row = i / heads, head = i % heads, position = t->positions[row];
        const float *c = cos + position * (rotary / 2), *z = sin + position * (rotary / 2);
        if (head < num_heads) {
            const int64_t place = row * num_heads + head;
            memcpy(queries + place * d, met + place * rank, (size_t)rank * sizeof *met);
            rotate(rotary, rotary, q + (place + 1) * q_size - rotary, c, z, queries + place * d + rank);
            continue;
        }
        float key[d];
        normalize_row(F32, rank, epsilon, kv + row * d, norm, key);
        rotate(rotary, rotary, kv + row * d + rank, c, z, key + rank);
        void *block = key_block(s, keys, block_of(t, row, s.tokens_per_block), 0);
        write_key(s, block, position % s.tokens_per_block, key, factor);
        /* An odd row leaves half a pair, which queries multiply by zero: it must be a finite number. Bytes always are. */
        if (s.type == BF16 && d % 2) store1(BF16, block, key_place(s, position % s.tokens_per_block, d), 0.0f);
    }
}

#endif
