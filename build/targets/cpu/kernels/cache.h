/* The layout of the paged KV cache, "k-groups": what lies where inside a block.
 *
 * Each layer has a region of keys and one of values; a region is blocks x KV heads x one head's part. Keys of a head
 * lie as [D groups][tokens][group], values as [token groups][padded D][group], so that both products of attention read
 * a block as tile.h wants it: 16 tokens (or 16 of D) side by side, and BF16 in pairs. */
#ifndef INFLIGHT_CACHE_H
#define INFLIGHT_CACHE_H

#include "tile.h"

typedef struct {
    element type;
    int64_t num_kv_heads, head_size, tokens_per_block;
} cache_shape;

INLINE int64_t padded_head(cache_shape s) { return round_up(s.head_size, LANES); }

/* Elements of one head's part of a block of keys, and of values. */
INLINE int64_t key_elements(cache_shape s) { return s.tokens_per_block * round_up(s.head_size, group_of(s.type)); }
INLINE int64_t value_elements(cache_shape s) { return s.tokens_per_block * padded_head(s); }

INLINE void *key_block(cache_shape s, void *region, int64_t block, int64_t head) {
    return at(s.type, region, (block * s.num_kv_heads + head) * key_elements(s));
}
INLINE void *value_block(cache_shape s, void *region, int64_t block, int64_t head) {
    return at(s.type, region, (block * s.num_kv_heads + head) * value_elements(s));
}

INLINE int64_t key_place(cache_shape s, int64_t token, int64_t d) {
    const int64_t group = group_of(s.type);
    return (d / group * s.tokens_per_block + token) * group + d % group;
}
INLINE int64_t value_place(cache_shape s, int64_t token, int64_t d) {
    const int64_t group = group_of(s.type);
    return (token / group * padded_head(s) + d) * group + token % group;
}

#endif
