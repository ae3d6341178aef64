/* What stands between the matrix products of a layer, in one pass each: bfloat16 in and out, float32
 * inside. Definitions: `phisight.kernels.between`.
 *
 * Dimensions: m rows of k numbers (a multiple of LANES).
 */
#include <math.h>

#include "wide.h"

#define WORTH (1 << 19) /* numbers: for fewer no second thread is woken, which others may keep */

/* To 2e-7 of it. e to the -x by coefficients of exp2 from the Cephes library; one number at a time,
 * since GCC takes vectors apart in a function before it is inlined, and makes them of loops after. */
INLINE float sigmoid(float x) {
    float power = (x > 87 ? -87 : x < -87 ? 87 : -x) * 1.44269504f;
    float shifted = power + 12582912.0f; /* 1.5 * 2^23: what is left is a whole number */
    float rest = power - (shifted - 12582912.0f), y;
    y = 1.8775767e-3f * rest + 8.9893397e-3f;
    y = y * rest + 5.5826318e-2f;
    y = y * rest + 2.4015361e-1f;
    y = y * rest + 6.9315308e-1f;
    y = y * rest + 9.9999994e-1f;
    uint32_t bits, whole;
    memcpy(&bits, &y, sizeof bits);
    memcpy(&whole, &shifted, sizeof whole);
    bits += whole << 23;
    memcpy(&y, &bits, sizeof y);
    return 1 / (1 + y);
}

CLONED static void quick_gelu(uint16_t *x, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        float one = widened(x[i]);
        x[i] = narrowed(one * sigmoid(1.702f * one));
    }
}

CLONED static void silu_product(const uint16_t *gate, const uint16_t *up, uint16_t *restrict y,
                                int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        float one = widened(gate[i]);
        y[i] = narrowed(one * sigmoid(one) * widened(up[i]));
    }
}

CLONED static void rms_norm(const uint16_t *x, const uint16_t *weight, uint16_t *y, int64_t k,
                            float eps) {
    Wide sum[2] = {{0}, {0}};
    for (int64_t i = 0; i < k; i += LANES) {
        Wide one = WIDENED(x + i);
        sum[i / LANES & 1] += one * one;
    }
    float scale = 1 / sqrtf(SUM(sum[0] + sum[1]) / (float)k + eps);
    for (int64_t i = 0; i < k; i += LANES) {
        uint16_t normed[LANES]; /* rounded before the weight is applied, as the reference does */
        NARROWED(normed, WIDENED(x + i) * scale);
        NARROWED(y + i, WIDENED(normed) * WIDENED(weight + i));
    }
}

/* (m, k) in place. */
void phisight_quick_gelu(uint16_t *x, int64_t m, int64_t k, int32_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (m * k > WORTH)
    for (int64_t i = 0; i < m; i++) quick_gelu(x + i * k, k);
}

/* (m, 2 k), gates first, to (m, k). */
void phisight_silu_product(const uint16_t *x, uint16_t *y, int64_t m, int64_t k, int32_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (m * k > WORTH)
    for (int64_t i = 0; i < m; i++) silu_product(x + 2 * i * k, x + (2 * i + 1) * k, y + i * k, k);
}

/* (m, k) by a weight (k) to (m, k). */
void phisight_rms_norm(const uint16_t *x, const uint16_t *weight, uint16_t *y, int64_t m,
                       int64_t k, float eps, int32_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (m * k > WORTH)
    for (int64_t i = 0; i < m; i++) rms_norm(x + i * k, weight, y + i * k, k, eps);
}

CLONED static void rotate(const uint16_t *x, const uint16_t *cosine, const uint16_t *sine,
                          uint16_t *y, int64_t heads, int64_t d) {
    int64_t half = d / 2;
    for (int64_t h = 0; h < heads; h++, x += d, y += d)
        for (int64_t i = 0; i < half; i += LANES) {
            Wide first = WIDENED(x + i), second = WIDENED(x + half + i);
            NARROWED(y + i, first * WIDENED(cosine + i) - second * WIDENED(sine + i));
            NARROWED(y + half + i,
                     second * WIDENED(cosine + half + i) + first * WIDENED(sine + half + i));
        }
}

/* (t, heads, d) of tokens `stride` apart, turned by cos and sin (t, d), to (t, heads, d); d is a
 * multiple of 2 * LANES. */
void phisight_rotate(const uint16_t *x, const uint16_t *cosine, const uint16_t *sine, uint16_t *y,
                     int64_t t, int64_t stride, int64_t heads, int64_t d, int32_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (t * heads * d > WORTH)
    for (int64_t i = 0; i < t; i++)
        rotate(x + i * stride, cosine + i * d, sine + i * d, y + i * heads * d, heads, d);
}

/* (t, heads, d) of tokens `stride` apart to their blocks and places in a (blocks, heads, b, d)
 * store. */
void phisight_write(uint16_t *store, const int64_t *blocks, const int64_t *places,
                    const uint16_t *x, int64_t t, int64_t stride, int64_t heads, int64_t b,
                    int64_t d, int32_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (t * heads * d > WORTH)
    for (int64_t i = 0; i < t; i++)
        for (int64_t h = 0; h < heads; h++)
            memcpy(store + ((blocks[i] * heads + h) * b + places[i]) * d, x + i * stride + h * d,
                   (size_t)d * sizeof *x);
}
