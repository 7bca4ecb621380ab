/* Philox4x32-10, a counter-based generator: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3",
 * SC 2011. A draw is a pure function of its key and counter, so it depends on no other row and no earlier step. */
#ifndef INFLIGHT_PHILOX_H
#define INFLIGHT_PHILOX_H

#include <stdint.h>

static inline void philox_4x32_10(uint32_t counter[4], uint32_t key_low, uint32_t key_high) {
    for (int round = 0; round < 10; ++round) {
        const uint64_t even = 0xD2511F53ull * counter[0];
        const uint64_t odd = 0xCD9E8D57ull * counter[2];
        const uint32_t first = (uint32_t)(odd >> 32) ^ counter[1] ^ key_low;
        const uint32_t third = (uint32_t)(even >> 32) ^ counter[3] ^ key_high;
        counter[0] = first;
        counter[1] = (uint32_t)odd;
        counter[2] = third;
        counter[3] = (uint32_t)even;
        key_low += 0x9E3779B9u;
        key_high += 0xBB67AE85u;
    }
}

/* A uniform number in [0, 1) with 53 random bits, keyed by (seed, position). */
static inline double philox_uniform(uint64_t seed, uint64_t position) {
    uint32_t counter[4] = {(uint32_t)position, (uint32_t)(position >> 32), 0, 0};
    philox_4x32_10(counter, (uint32_t)seed, (uint32_t)(seed >> 32));
    const uint64_t bits = (uint64_t)counter[1] << 32 | counter[0];
    return (double)(bits >> 11) * 0x1p-53;
}

#endif
