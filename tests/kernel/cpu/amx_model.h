/* AMX in plain C, for machines without it: the tile instructions as Intel's Software Developer's Manual defines them,
 * in place of the compiler's intrinsics. Included before the kernels, which then are compiled as for a CPU with AMX.
 *
 * What the instructions would refuse is counted, not trapped: amx_faults() is 0 when a CPU would have run the same.
 * Denormals are flushed to zero as TDPBF16PS does. */
#include <immintrin.h> /* first, so that its names can be replaced */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define __AMX_TILE__ 1
#define __AMX_INT8__ 1
#define __AMX_BF16__ 1

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} model_configuration;

typedef struct {
    model_configuration shape; /* palette 0: no tiles */
    uint8_t tiles[8][16][64];
} model_state;

static _Thread_local model_state model;
static int model_fault_count, model_product_count;

static void model_require(int holds) {
    if (!holds) __atomic_fetch_add(&model_fault_count, 1, __ATOMIC_RELAXED);
}

static int model_tile_exists(int tile) { return model.shape.palette == 1 && model.shape.rows[tile] > 0; }

static void model_release(void) { memset(&model, 0, sizeof model); }

static __attribute__((noinline)) void model_loadconfig(const void *from) {
    model_release();
    memcpy(&model.shape, from, sizeof model.shape);
    const model_configuration *c = &model.shape;
    model_require(c->palette == 1 && c->start_row == 0);
    for (int i = 0; i < 14; i++) model_require(c->reserved[i] == 0);
    for (int i = 0; i < 16; i++) {
        model_require(c->rows[i] <= (i < 8 ? 16 : 0) && c->row_bytes[i] <= (i < 8 ? 64 : 0));
        model_require((c->rows[i] == 0) == (c->row_bytes[i] == 0));
    }
}

static __attribute__((noinline)) void model_zero(int tile) {
    model_require(model_tile_exists(tile));
    memset(model.tiles[tile], 0, sizeof model.tiles[tile]);
}

static __attribute__((noinline)) void model_loadd(int tile, const void *base, int64_t stride) {
    model_zero(tile);
    for (int r = 0; r < model.shape.rows[tile]; r++)
        memcpy(model.tiles[tile][r], (const uint8_t *)base + r * stride, model.shape.row_bytes[tile]);
}

static __attribute__((noinline)) void model_stored(int tile, void *base, int64_t stride) {
    model_require(model_tile_exists(tile));
    for (int r = 0; r < model.shape.rows[tile]; r++)
        memcpy((uint8_t *)base + r * stride, model.tiles[tile][r], model.shape.row_bytes[tile]);
}

/* The shapes that a product asks for; 0 when they are not met. */
static int model_product_fits(int sums, int a, int b) {
    const model_configuration *c = &model.shape;
    const int fits = model_tile_exists(sums) && model_tile_exists(a) && model_tile_exists(b) && sums != a &&
                     sums != b && a != b && c->rows[sums] == c->rows[a] && c->row_bytes[a] / 4 == c->rows[b] &&
                     c->row_bytes[sums] == c->row_bytes[b] && c->row_bytes[a] % 4 == 0 && c->row_bytes[b] % 4 == 0;
    model_require(fits);
    __atomic_fetch_add(&model_product_count, 1, __ATOMIC_RELAXED);
    return fits;
}

/* Signed bytes of a with unsigned or signed bytes of b; sums wrap. */
static __attribute__((noinline)) void model_bytes(int sums, int a, int b, int is_signed) {
    if (!model_product_fits(sums, a, b)) return;
    for (int m = 0; m < model.shape.rows[sums]; m++) {
        for (int k = 0; k < model.shape.row_bytes[a] / 4; k++) {
            for (int n = 0; n < model.shape.row_bytes[sums] / 4; n++) {
                const int8_t *x = (const int8_t *)model.tiles[a][m] + 4 * k;
                const uint8_t *w = model.tiles[b][k] + 4 * n;
                uint32_t sum;
                memcpy(&sum, model.tiles[sums][m] + 4 * n, 4);
                for (int i = 0; i < 4; i++) sum += (uint32_t)(x[i] * (is_signed ? (int8_t)w[i] : w[i]));
                memcpy(model.tiles[sums][m] + 4 * n, &sum, 4);
            }
        }
    }
}

static void model_dpbsud(int sums, int a, int b) { model_bytes(sums, a, b, 0); }
static void model_dpbssd(int sums, int a, int b) { model_bytes(sums, a, b, 1); }

static float model_flush(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x; }

static float model_bf16(const uint8_t *p) {
    uint16_t half;
    memcpy(&half, p, 2);
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, 4);
    return model_flush(x);
}

/* TDPBF16PS: even and odd k of the tile are a chain each, from zero; their sum is added to the accumulator. */
static __attribute__((noinline)) void model_dpbf16ps(int sums, int a, int b) {
    if (!model_product_fits(sums, a, b)) return;
    for (int m = 0; m < model.shape.rows[sums]; m++) {
        for (int n = 0; n < model.shape.row_bytes[sums] / 4; n++) {
            float chains[2] = {0.0f, 0.0f}, sum;
            for (int k = 0; k < model.shape.row_bytes[a] / 4; k++)
                for (int odd = 0; odd < 2; odd++)
                    chains[odd] = model_flush(fmaf(model_bf16(model.tiles[a][m] + 4 * k + 2 * odd),
                                                   model_bf16(model.tiles[b][k] + 4 * n + 2 * odd), chains[odd]));
            memcpy(&sum, model.tiles[sums][m] + 4 * n, 4);
            sum = model_flush(model_flush(sum) + model_flush(chains[0] + chains[1]));
            memcpy(model.tiles[sums][m] + 4 * n, &sum, 4);
        }
    }
}

#define MODEL_EXPORT __attribute__((visibility("default")))
MODEL_EXPORT int amx_faults(void) { return model_fault_count; }
MODEL_EXPORT int amx_products(void) { return model_product_count; }
/* Whether the calling thread still holds tiles. */
MODEL_EXPORT int amx_tiles_in_use(void) { return model.shape.palette != 0; }

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbsud
#undef _tile_dpbssd
#undef _tile_dpbf16ps
#define _tile_loadconfig model_loadconfig
#define _tile_release model_release
#define _tile_zero model_zero
#define _tile_loadd model_loadd
#define _tile_stored model_stored
#define _tile_dpbsud model_dpbsud
#define _tile_dpbssd model_dpbssd
#define _tile_dpbf16ps model_dpbf16ps
