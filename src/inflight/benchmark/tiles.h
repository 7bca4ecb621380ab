/* Loops of AMX: products of two tiles of 16 rows of 64 bytes on top of a third. */
#ifndef INFLIGHT_BENCHMARK_TILES_H
#define INFLIGHT_BENCHMARK_TILES_H

#if defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__linux__)
#define HAS_TILES
#include <immintrin.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TILE_ROUNDS 100000L
#define TILE_CHAINS 6 /* tiles that are sums; the other two are the operands */

/* Linux gives tiles to a process that asks (ARCH_REQ_XCOMP_PERM for XTILEDATA). */
static int may_use_tiles(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

static void configure_tiles(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) shape.row_bytes[i] = 64, shape.rows[i] = 16;
    _tile_loadconfig(&shape);
    _tile_zero(0), _tile_zero(1), _tile_zero(2), _tile_zero(3);
    _tile_zero(4), _tile_zero(5), _tile_zero(6), _tile_zero(7);
}

/* Tiles are named by literals. */
#define TILE_LOOP(name, product, values)                                        \
    static double name(void) {                                                  \
        configure_tiles();                                                      \
        for (long i = 0; i < TILE_ROUNDS; i++) {                                \
            product(0, 6, 7), product(1, 6, 7), product(2, 6, 7);               \
            product(3, 6, 7), product(4, 6, 7), product(5, 6, 7);               \
        }                                                                       \
        _tile_release();                                                        \
        return 2.0 * 16 * 16 * (values) * TILE_CHAINS * TILE_ROUNDS;            \
    }
TILE_LOOP(bfloat16_tiles, _tile_dpbf16ps, 32)
TILE_LOOP(int8_tiles, _tile_dpbusd, 64)
#endif

#endif
