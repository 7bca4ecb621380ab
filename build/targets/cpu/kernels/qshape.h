/* The shape of a product with integer weights, and how a panel holds them.
 *
 * A panel holds 64 columns: for each group of k first the columns' scales, behind them their zero points where there are
 * some (what a weight is beyond its level times its scale; beside float16 scales of 4-bit weights, what it is beyond
 * level + 8 times its scale: 16 bits hold the least number of a group sooner than its middle), then the weights, 256
 * bytes a step. A step is 4 values of k for 8-bit weights ([64][4] bytes) and 8 for 4-bit weights ([64][4] bytes whose lower halves are the
 * first 4 values, the upper halves the next 4). A weight w lies there as w + 128 or w + 8.
 *
 * Where the scales of a column are whole multiples of one unit, a group has those multiples, one byte each, and the units
 * of all columns, float32, end the panel. */
#ifndef INFLIGHT_QSHAPE_H
#define INFLIGHT_QSHAPE_H

#include "panels.h"
#include "quantize.h"

#define STEP_BYTES 256
#define MOST_MULTIPLE 15 /* times -8 it fits in 8 bits */

/* What codes of 4 bits stand for (codebook.h): a number is its value times the step. */
typedef struct {
    int digits; /* signed bytes of a value, the higher first, as those of a row; 0: weights are integers */
    int bits;   /* of a digit: 7, or 8 */
    float step;
    const int8_t *values; /* [digits][16] */
} codebook;

typedef struct {
    int bits;           /* of a weight: 8 or 4 */
    element scale_type; /* of the weights' scales; I8: multiples of a unit, at most MOST_MULTIPLE */
    quantized_row row;  /* row.group values of k share a scale, and a sum of activations */
    int zeros;          /* whether they share a zero point as well */
    codebook codes;     /* of 4-bit weights */
} quantized_shape;

/* Whether zero points are those of levels 0 .. 15. */
INLINE int zeros_of_least(quantized_shape q) { return q.bits == 4 && q.scale_type == F16; }
INLINE int64_t step_values(quantized_shape q) { return q.bits == 8 ? 4 : 8; }
/* Of the scales of a group, and of its zero points. */
INLINE int64_t scales_bytes(quantized_shape q) { return PANEL * element_size(q.scale_type) * (q.zeros ? 2 : 1); }
INLINE int64_t group_bytes(quantized_shape q) {
    return scales_bytes(q) + ceil_div(q.row.group, step_values(q)) * STEP_BYTES;
}
INLINE int has_multiples(quantized_shape q) { return q.scale_type == I8; }
/* Where the units of a panel lie. */
INLINE int64_t units_offset(quantized_shape q) {
    return ceil_div(q.row.width, q.row.group) * scales_bytes(q) + ceil_div(q.row.width, step_values(q)) * STEP_BYTES;
}
INLINE int64_t quantized_panel_bytes(quantized_shape q) {
    return units_offset(q) + (has_multiples(q) ? PANEL * (int64_t)sizeof(float) : 0);
}
/* Activations that one tile takes. */
INLINE int64_t tile_tokens(quantized_shape q) { return TILE_ROWS / q.row.digits; }

#endif
