/* Linear layers of few rows over weights of 8 and of 16 bits, as linear.c has them of 4.
 *
 * Dimensions: m rows of x, n outputs, k inputs.
 */
#include "weights.h"

#define OUTPUTS 32 /* a thread takes so many together */
#define AT_ONCE 4 /* rows of x */

#if defined(__x86_64__) && defined(__GNUC__)
/* 8 bits, float x: `rows` is a constant where this is inlined. */
INLINE BF16 void int8_tile(const int rows, const float *x, const int8_t *codes, float scale,
                           float *y, int64_t n, int64_t k) {
    __m512 total[AT_ONCE][2];
    for (int r = 0; r < rows; r++) total[r][0] = total[r][1] = _mm512_setzero_ps();
    for (int64_t i = 0; i < k; i += 2 * SIDE) {
        if (i % 64 == 0) _mm_prefetch((const char *)codes + i + 2048, _MM_HINT_T0);
        for (int u = 0; u < 2; u++) {
            int64_t at = i + u * SIDE, left = k - at;
            __mmask16 there = left >= SIDE ? 0xFFFF : left > 0 ? (1u << left) - 1 : 0;
            __m512i wide = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(there, codes + at));
            for (int r = 0; r < rows; r++)
                total[r][u] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(wide),
                                              _mm512_maskz_loadu_ps(there, x + r * k + at),
                                              total[r][u]);
        }
    }
    for (int r = 0; r < rows; r++)
        y[r * n] = _mm512_reduce_add_ps(_mm512_add_ps(total[r][0], total[r][1])) * scale;
}

BF16 static void int8_wide(const float *x, const int8_t *codes, const uint16_t *scales, float *y,
                           int64_t m, int64_t n, int64_t k, int64_t first, int64_t last) {
    for (int64_t j = first; j < last; j++)
        for (int64_t r = 0; r < m; r += 2) {
            const float *rows = x + r * k;
            if (m - r == 1)
                int8_tile(1, rows, codes + j * k, widened(scales[j]), y + r * n + j, n, k);
            else
                int8_tile(2, rows, codes + j * k, widened(scales[j]), y + r * n + j, n, k);
        }
}

/* 16 bits, bfloat16 x; k is a multiple of 32. Two sums a row, so that one need not wait for the
 * other. */
INLINE BF16 void dense_tile(const int rows, const uint16_t *x, const uint16_t *w, float *y,
                            int64_t n, int64_t k, int64_t j) {
    const uint16_t *row = w + j * k;
    __m512 even[AT_ONCE], odd[AT_ONCE];
    for (int r = 0; r < rows; r++) even[r] = odd[r] = _mm512_setzero_ps();
    int64_t i = 0;
    for (; i + 64 <= k; i += 64) {
        _mm_prefetch((const char *)(row + i) + 4096, _MM_HINT_T0);
        _mm_prefetch((const char *)(row + i) + 4096 + 64, _MM_HINT_T0);
        __m512bh first = (__m512bh)_mm512_loadu_si512(row + i);
        __m512bh second = (__m512bh)_mm512_loadu_si512(row + i + 32);
        for (int r = 0; r < rows; r++) {
            const uint16_t *part = x + r * k + i;
            even[r] = _mm512_dpbf16_ps(even[r], first, (__m512bh)_mm512_loadu_si512(part));
            odd[r] = _mm512_dpbf16_ps(odd[r], second, (__m512bh)_mm512_loadu_si512(part + 32));
        }
    }
    if (i < k)
        for (int r = 0; r < rows; r++)
            even[r] = _mm512_dpbf16_ps(even[r], (__m512bh)_mm512_loadu_si512(row + i),
                                       (__m512bh)_mm512_loadu_si512(x + r * k + i));
    for (int r = 0; r < rows; r++)
        y[r * n + j] = _mm512_reduce_add_ps(_mm512_add_ps(even[r], odd[r]));
}

BF16 static void dense_bfloat16(const uint16_t *x, const uint16_t *w, float *y, int64_t m,
                                int64_t n, int64_t k, int64_t first, int64_t last) {
    for (int64_t r = 0; r < m; r += AT_ONCE)
        for (int64_t j = first; j < last; j++) switch (m - r) {
            case 1: dense_tile(1, x + r * k, w, y + r * n, n, k, j); break;
            case 2: dense_tile(2, x + r * k, w, y + r * n, n, k, j); break;
            case 3: dense_tile(3, x + r * k, w, y + r * n, n, k, j); break;
            default: dense_tile(AT_ONCE, x + r * k, w, y + r * n, n, k, j);
            }
}
#else
static void dense_bfloat16(const uint16_t *x, const uint16_t *w, float *y, int64_t m, int64_t n,
                           int64_t k, int64_t first, int64_t last) {
    abort(); /* phisight_best_way says no */
}

static void int8_wide(const float *x, const int8_t *codes, const uint16_t *scales, float *y,
                      int64_t m, int64_t n, int64_t k, int64_t first, int64_t last) {
    abort(); /* has_bfloat16 says no */
}
#endif

/* 8 bits, one scale an output. A stretch of weights is widened once for all rows. */
#define STRETCH 512
CLONED static void int8_float(const float *x, const int8_t *codes, const uint16_t *scales,
                              float *y, int64_t m, int64_t n, int64_t k, int64_t first,
                              int64_t last) {
    Wide wide[STRETCH / LANES];
    for (int64_t j = first; j < last; j++) {
        const int8_t *w = codes + j * k;
        for (int64_t r = 0; r < m; r++) y[r * n + j] = 0;
        for (int64_t start = 0; start < k; start += STRETCH) {
            int64_t count = k - start < STRETCH ? k - start : STRETCH, whole = count / LANES;
            __builtin_prefetch(w + start + 4096);
            float *flat = (float *)wide; /* a plain loop: GCC 12 takes vectors of bytes apart */
            for (int64_t i = 0; i < whole * LANES; i++) flat[i] = (float)w[start + i];
            for (int64_t r = 0; r < m; r++) {
                const float *row = x + r * k + start;
                Wide sum[4] = {{0}, {0}, {0}, {0}};
                int64_t i = 0;
                for (; i + 4 <= whole; i += 4)
                    for (int u = 0; u < 4; u++)
                        sum[u] += wide[i + u] * LOAD(Wide, row + (i + u) * LANES);
                for (; i < whole; i++) sum[0] += wide[i] * LOAD(Wide, row + i * LANES);
                float rest = SUM((sum[0] + sum[1]) + (sum[2] + sum[3]));
                for (i *= LANES; i < count; i++) rest += (float)w[start + i] * row[i];
                y[r * n + j] += rest;
            }
        }
        for (int64_t r = 0; r < m; r++) y[r * n + j] *= widened(scales[j]);
    }
}

void phisight_int8(const float *x, const int8_t *codes, const uint16_t *scales, float *y,
                   int64_t m, int64_t n, int64_t k, int32_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < n; first += OUTPUTS) {
        int64_t last = first + OUTPUTS < n ? first + OUTPUTS : n;
        if (m <= 2 && has_bfloat16())
            int8_wide(x, codes, scales, y, m, n, k, first, last);
        else
            int8_float(x, codes, scales, y, m, n, k, first, last);
    }
}

/* 16 bits, bfloat16 x, in float32. A stretch of weights is widened once for all rows. */
CLONED static void dense_float(const uint16_t *x, const uint16_t *w, float *y, int64_t m,
                               int64_t n, int64_t k, int64_t first, int64_t last) {
    Wide wide[STRETCH / LANES];
    for (int64_t j = first; j < last; j++) {
        const uint16_t *row = w + j * k;
        for (int64_t r = 0; r < m; r++) y[r * n + j] = 0;
        for (int64_t start = 0; start < k; start += STRETCH) {
            int64_t parts = (k - start < STRETCH ? k - start : STRETCH) / LANES;
            for (int64_t i = 0; i < parts; i++) wide[i] = WIDENED(row + start + i * LANES);
            for (int64_t i = 0; i < parts; i += 2) __builtin_prefetch(row + start + 2048 + i * LANES);
            for (int64_t r = 0; r < m; r++) {
                const uint16_t *part = x + r * k + start;
                Wide sum[2] = {{0}, {0}}; /* parts are even: k is a multiple of 32 */
                for (int64_t i = 0; i < parts; i += 2) {
                    sum[0] += wide[i] * WIDENED(part + i * LANES);
                    sum[1] += wide[i + 1] * WIDENED(part + (i + 1) * LANES);
                }
                y[r * n + j] += SUM(sum[0] + sum[1]);
            }
        }
    }
}

/* 16 bits: x and w bfloat16; k is a multiple of 32. `narrow` multiplies it as it is, where
 * phisight_best_way is better than BY_FLOAT. */
void phisight_dense(const uint16_t *x, const uint16_t *w, float *y, int64_t m, int64_t n,
                    int64_t k, int32_t narrow, int32_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t first = 0; first < n; first += OUTPUTS) {
        int64_t last = first + OUTPUTS < n ? first + OUTPUTS : n;
        if (narrow)
            dense_bfloat16(x, w, y, m, n, k, first, last);
        else
            dense_float(x, w, y, m, n, k, first, last);
    }
}
