/* What stands between the matrix products of a layer, in one pass each: bfloat16 in and out, float32
 * inside. Definitions: `phisight.kernels.between`.
 *
 * Dimensions: m rows of k numbers (a multiple of LANES).
 */
#include <math.h>

#include "wide.h"

#define WORTH 16384 /* numbers: for fewer no second thread is woken */

INLINE Wide sigmoid(Wide x) {
    return 1.0f / (1.0f + exponential(-x));
}

CLONED static void quick_gelu(const uint16_t *x, uint16_t *y, int64_t count) {
    for (int64_t i = 0; i < count; i += LANES) {
        Wide one = WIDENED(x + i);
        NARROWED(y + i, one * sigmoid(1.702f * one));
    }
}

CLONED static void silu_product(const uint16_t *gate, const uint16_t *up, uint16_t *y,
                                int64_t count) {
    for (int64_t i = 0; i < count; i += LANES) {
        Wide one = WIDENED(gate + i);
        NARROWED(y + i, one * sigmoid(one) * WIDENED(up + i));
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

/* (m, k) to (m, k). */
void phisight_quick_gelu(const uint16_t *x, uint16_t *y, int64_t m, int64_t k, int32_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (m * k > WORTH)
    for (int64_t i = 0; i < m; i++) quick_gelu(x + i * k, y + i * k, k);
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
