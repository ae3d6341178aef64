/* Linear layers of few rows over weights of 4 bits; `phisight.kernels.packed` is their definition.
 *
 * What bounds them is reading the weights, so a weight is unpacked in as few instructions as there
 * are: 4-bit codes lie so that a shift and one logic instruction make bfloat16 numbers of them,
 * 128 + code, whose 128 goes out again with the sum of x. A rows of x are taken together, so that
 * what was unpacked serves them all.
 *
 * Dimensions: m rows of x, n outputs, k inputs (a multiple of GROUP for 4 bits).
 */
#include "weights.h"

#define VERSION 10
#define OUTPUTS 32 /* a thread takes so many together */
#define AT_ONCE 4 /* rows of x */
int32_t phisight_version(void) { return VERSION; }

CLONED static void add_groups(const float *x, int64_t count, float *sums) {
    for (int64_t i = 0; i < count; i++) {
        Wide sum = LOAD(Wide, x + i * GROUP);
        for (int64_t j = LANES; j < GROUP; j += LANES) sum += LOAD(Wide, x + i * GROUP + j);
        sums[i] = SUM(sum);
    }
}

CLONED static void add_narrow_groups(const uint16_t *x, int64_t count, float *sums) {
    for (int64_t i = 0; i < count; i++) {
        Wide sum = WIDENED(x + i * GROUP);
        for (int64_t j = LANES; j < GROUP; j += LANES) sum += WIDENED(x + i * GROUP + j);
        sums[i] = SUM(sum);
    }
}

/* (m, k) rows to (m, k / GROUP) sums of each group. */
static float *group_sums(const float *x, const uint16_t *narrow, int64_t m, int64_t k) {
    int64_t count = m * (k / GROUP);
    float *sums = malloc(sizeof(float) * (size_t)(count + 1)); /* of nothing it may be null */
    if (sums && narrow)
        add_narrow_groups(narrow, count, sums);
    else if (sums)
        add_groups(x, count, sums);
    return sums;
}

INLINE float offset_of(const uint16_t *scales, const uint16_t *offsets, const float *sums,
                       int64_t groups, float zero) {
    float total = 0;
    for (int64_t i = 0; i < groups; i++)
        total += (widened(offsets[i]) - zero * widened(scales[i])) * sums[i];
    return total;
}

/* 4 bits, float x: anywhere. */
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
                                                     sums + r * groups, groups, 8.0f);
        }
    }
}

#if defined(__x86_64__) && defined(__GNUC__)

/* 4 bits, bfloat16 x: `rows` is a constant where this is inlined. */
INLINE BF16 void int4_tile(const int rows, const uint16_t *x, const float *sums,
                           const uint16_t *codes, const uint16_t *scales,
                           const uint16_t *offsets, uint16_t *y, int64_t n, int64_t k, int64_t j) {
    const __m512i mask = _mm512_set1_epi16(15), magic = _mm512_set1_epi16(0x4300); /* 128 */
    enum { and_or = 0xEA }; /* (a & b) | c */
    int64_t groups = k / GROUP;
    const uint16_t *words = codes + j * groups * PLANE;
    __m512 total[AT_ONCE];
    for (int r = 0; r < rows; r++) total[r] = _mm512_setzero_ps();
    for (int64_t i = 0; i < groups; i++, words += PLANE) {
        _mm_prefetch((const char *)words + 2048, _MM_HINT_T0);
        __m512i q = _mm512_loadu_si512(words), plane[4];
        plane[0] = _mm512_ternarylogic_epi32(q, mask, magic, and_or);
        plane[1] = _mm512_ternarylogic_epi32(_mm512_srli_epi16(q, 4), mask, magic, and_or);
        plane[2] = _mm512_ternarylogic_epi32(_mm512_srli_epi16(q, 8), mask, magic, and_or);
        plane[3] = _mm512_or_si512(_mm512_srli_epi16(q, 12), magic);
        __m512 scale = _mm512_set1_ps(widened(scales[j * groups + i]));
        for (int r = 0; r < rows; r++) {
            const uint16_t *part = x + r * k + i * GROUP;
            __m512 sum = _mm512_setzero_ps();
            for (int p = 0; p < 4; p++)
                sum = _mm512_dpbf16_ps(sum, (__m512bh)plane[p],
                                       (__m512bh)_mm512_loadu_si512(part + p * PLANE));
            total[r] = _mm512_fmadd_ps(sum, scale, total[r]);
        }
    }
    for (int r = 0; r < rows; r++)
        y[r * n + j] = narrowed(_mm512_reduce_add_ps(total[r]) +
                                offset_of(scales + j * groups, offsets + j * groups,
                                          sums + r * groups, groups, 136.0f));
}

BF16 static void int4_bfloat16(const uint16_t *x, const float *sums, const uint16_t *codes,
                               const uint16_t *scales, const uint16_t *offsets, uint16_t *y,
                               int64_t m, int64_t n, int64_t k, int64_t first, int64_t last) {
    for (int64_t r = 0; r < m; r += AT_ONCE) {
        const uint16_t *rows = x + r * k;
        const float *own = sums + r * (k / GROUP);
        for (int64_t j = first; j < last; j++) {
            uint16_t *out = y + r * n;
            switch (m - r) {
            case 1: int4_tile(1, rows, own, codes, scales, offsets, out, n, k, j); break;
            case 2: int4_tile(2, rows, own, codes, scales, offsets, out, n, k, j); break;
            case 3: int4_tile(3, rows, own, codes, scales, offsets, out, n, k, j); break;
            default: int4_tile(AT_ONCE, rows, own, codes, scales, offsets, out, n, k, j);
            }
        }
    }
}
#else
static void int4_bfloat16(const uint16_t *x, const float *sums, const uint16_t *codes,
                          const uint16_t *scales, const uint16_t *offsets, uint16_t *y,
                          int64_t m, int64_t n, int64_t k, int64_t first, int64_t last) {
    abort(); /* phisight_best_way says no */
}
#endif

/* x is float and so is y, or x is null and `narrow` and y are bfloat16. 0, or 1 without memory. */
int32_t phisight_int4(const float *x, const uint16_t *narrow, const uint16_t *codes,
                      const uint16_t *scales, const uint16_t *offsets, void *y, int64_t m,
                      int64_t n, int64_t k, int32_t threads) {
    float *sums = group_sums(x, narrow, m, k);
    if (!sums) return 1;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < n; first += OUTPUTS) {
        int64_t last = first + OUTPUTS < n ? first + OUTPUTS : n;
        if (narrow)
            int4_bfloat16(narrow, sums, codes, scales, offsets, y, m, n, k, first, last);
        else
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
