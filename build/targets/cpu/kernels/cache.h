/* The layout of the paged KV cache, "k-groups": what lies where inside a block.
 *
 * Each layer has a region of keys and one of values; a region is blocks x KV heads x one head's part. Keys of a head
 * lie as [D groups][tokens][group], values as [token groups][padded D][group], so that both products of attention read
 * a block as they want it: 16 tokens (or 16 of D) side by side, BF16 and E4M3 in pairs and integers in fours.
 *
 * A part of integers ends with one float32 scale per token ("k-groups-scales"). A byte of I4 has two levels of one
 * token, so that no two threads write the same byte: of a key, element j of two neighbouring groups of four; of a
 * value, element d in the lower half and d + 16 in the upper one, D padded to 32.
 *
 * Of latent attention a region is one of keys alone, whose first `latent` elements are the values: whoever wants them as
 * those lie makes them of the keys of a split (latent.h). */
#ifndef INFLIGHT_CACHE_H
#define INFLIGHT_CACHE_H

#include "tile.h"

typedef struct {
    element type;
    int64_t num_kv_heads, head_size, tokens_per_block;
    int64_t latent; /* 0: values are stored */
} cache_shape;

INLINE int64_t value_size(cache_shape s) { return s.latent ? s.latent : s.head_size; }

INLINE int has_levels(element type) { return type == I8 || type == I4; }
INLINE int level_bits(element type) { return type == I4 ? 4 : 8; }
INLINE int levels_per_byte(element type) { return type == I4 ? 2 : 1; }

/* Neighbours along k that lie together: what one instruction multiplies. */
INLINE int64_t cache_group(element type) { return has_levels(type) ? 4 : group_of(type); }

/* Of a value. */
INLINE int64_t padded_head(cache_shape s) { return round_up(value_size(s), LANES); }

/* Bytes or elements of a line of values: one of four, two or one token's, of all columns. */
INLINE int64_t value_line(cache_shape s) {
    const int64_t together = levels_per_byte(s.type);
    return round_up(value_size(s), LANES * together) / together * cache_group(s.type);
}

/* Elements (of I4: bytes) of one head's part of a block of keys, and of values, and bytes of its scales. */
INLINE int64_t scale_bytes(cache_shape s) {
    return has_levels(s.type) ? s.tokens_per_block * (int64_t)sizeof(float) : 0;
}
INLINE int64_t key_levels(cache_shape s) {
    const int64_t together = levels_per_byte(s.type);
    return s.tokens_per_block * round_up(s.head_size, cache_group(s.type) * together) / together;
}
INLINE int64_t value_levels(cache_shape s) { return s.tokens_per_block / cache_group(s.type) * value_line(s); }

/* The size of one head's part of a block, in elements. Values of latent rows have it where they are made. */
INLINE int64_t key_elements(cache_shape s) { return key_levels(s) + scale_bytes(s); }
INLINE int64_t value_elements(cache_shape s) { return value_levels(s) + scale_bytes(s); }

INLINE void *key_block(cache_shape s, void *region, int64_t block, int64_t head) {
    return at(s.type, region, (block * s.num_kv_heads + head) * key_elements(s));
}
INLINE void *value_block(cache_shape s, void *region, int64_t block, int64_t head) {
    return at(s.type, region, (block * s.num_kv_heads + head) * value_elements(s));
}

/* Where an element lies; of I4: its byte. */
INLINE int64_t key_place(cache_shape s, int64_t token, int64_t d) {
    const int64_t group = cache_group(s.type), line = group * levels_per_byte(s.type);
    return (d / line * s.tokens_per_block + token) * group + d % group;
}
INLINE int64_t value_place(cache_shape s, int64_t token, int64_t d) {
    const int64_t group = cache_group(s.type);
    const int64_t column = s.type == I4 ? d / (2 * LANES) * LANES + d % LANES : d;
    return token / group * value_line(s) + column * group + token % group;
}

/* Of a part of integers: what each token's levels are multiplied by. */
INLINE float *key_scales(cache_shape s, void *block) { return (float *)((uint8_t *)block + key_levels(s)); }
INLINE float *value_scales(cache_shape s, void *block) { return (float *)((uint8_t *)block + value_levels(s)); }

#endif
