/* Linear layers of few rows over weights of 4 bits in float32, for processors without the products
 * that few.c takes; `phisight.kernels.packed` is their definition.
 *
 * Dimensions: m rows of x, n outputs, k inputs (a multiple of GROUP for 4 bits).
 */
#include "weights.h"

#define VERSION 12
#define OUTPUTS 32 /* a thread takes so many together */
int32_t phisight_version(void) { return VERSION; }

CLONED static void add_groups(const float *x, int64_t count, float *sums) {
    for (int64_t i = 0; i < count; i++) {
        Wide sum = LOAD(Wide, x + i * GROUP);
        for (int64_t j = LANES; j < GROUP; j += LANES) sum += LOAD(Wide, x + i * GROUP + j);
        sums[i] = SUM(sum);
    }
}

/* (m, k) rows to (m, k / GROUP) sums of each group. */
static float *group_sums(const float *x, int64_t m, int64_t k) {
    int64_t count = m * (k / GROUP);
    float *sums = malloc(sizeof(float) * (size_t)(count + 1)); /* of nothing it may be null */
    if (sums) add_groups(x, count, sums);
    return sums;
}

INLINE float offset_of(const uint16_t *scales, const uint16_t *offsets, const float *sums,
                       int64_t groups) {
    float total = 0;
    for (int64_t i = 0; i < groups; i++)
        total += (widened(offsets[i]) - 8 * widened(scales[i])) * sums[i];
    return total;
}

CLONED static void int4_float(const float *x, const float *sums, const uint16_t *codes,
                              const uint16_t *scales, const uint16_t *offsets, float *y,
                              int64_t m, int64_t n, int64_t k, int64_t first, int64_t last) {
    int64_t groups = k / GROUP;
    for (int64_t j = first; j < last; j++) {
        const uint16_t *words = codes + j * groups * PLANE;
        for (int64_t r = 0; r < m; r++) {
            Wide total = {0};
            for (int64_t i = 0; i < groups; i++) {
                const float *part = x + r * k + i * GROUP;
                Wide sum[2] = {{0}, {0}};
                for (int u = 0; u < PLANE / LANES; u++) {
                    const uint16_t *from = words + i * PLANE + u * LANES;
                    Words q = __builtin_convertvector(LOAD(Halves, from), Words);
                    for (int p = 0; p < 4; p++) {
                        Wide code = __builtin_convertvector(q >> (4 * p) & 15, Wide);
                        sum[u & 1] += code * LOAD(Wide, part + p * PLANE + u * LANES);
                    }
                }
                total += (sum[0] + sum[1]) * widened(scales[j * groups + i]);
            }
            y[r * n + j] = SUM(total) + offset_of(scales + j * groups, offsets + j * groups,
                                                     sums + r * groups, groups);
        }
    }
}

/* 0, or 1 without memory. */
int32_t phisight_int4(const float *x, const uint16_t *codes, const uint16_t *scales,
                      const uint16_t *offsets, float *y, int64_t m, int64_t n, int64_t k,
                      int32_t threads) {
    float *sums = group_sums(x, m, k);
    if (!sums) return 1;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < n; first += OUTPUTS) {
        int64_t last = first + OUTPUTS < n ? first + OUTPUTS : n;
        int4_float(x, sums, codes, scales, offsets, y, m, n, k, first, last);
    }
    free(sums);
    return 0;
}

/* Rows `first` to `last` of the weights as bfloat16, (last - first, k). */
CLONED static void int4_row(const uint16_t *words, const uint16_t *scales,
                            const uint16_t *offsets, uint16_t *out, int64_t groups) {
    for (int64_t i = 0; i < groups; i++) {
        float scale = widened(scales[i]), offset = widened(offsets[i]);
        for (int u = 0; u < PLANE; u += LANES) {
            Words q = __builtin_convertvector(LOAD(Halves, words + i * PLANE + u), Words);
            for (int p = 0; p < 4; p++) {
                Wide value = __builtin_convertvector((q >> (4 * p) & 15) - 8, Wide) * scale + offset;
                NARROWED(out + i * GROUP + p * PLANE + u, value);
            }
        }
    }
}

void phisight_int4_unpack(const uint16_t *codes, const uint16_t *scales, const uint16_t *offsets,
                          uint16_t *out, int64_t k, int64_t first, int64_t last,
                          int32_t threads) {
    int64_t groups = k / GROUP;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t j = first; j < last; j++)
        int4_row(codes + j * groups * PLANE, scales + j * groups, offsets + j * groups,
                 out + (j - first) * k, groups);
}
