/* Sums of a product of bytes to bfloat16, a strip of outputs together: each row of y is on another
 * page. */
#ifndef PHISIGHT_STRIP_H
#define PHISIGHT_STRIP_H

#include "bytes.h"

#define STRIP 128 /* outputs */

#if defined(__x86_64__) && defined(__GNUC__)
INLINE VNNI __m512i rounded_up(__m512 wide) { /* to bfloat16 in the upper half, ties to even */
    __m512i bits = _mm512_castps_si512(wide);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    return _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
}

/* x * sigmoid(1.702 x) of x rounded to bfloat16. */
INLINE VNNI __m512 quick_gelu(__m512 wide) {
    __m512 x = _mm512_castsi512_ps(_mm512_and_si512(rounded_up(wide),
                                                    _mm512_set1_epi32((int32_t)0xFFFF0000)));
    __m512 power = power_of_two(_mm512_mul_ps(x, _mm512_set1_ps(-1.702f * 1.44269504f)));
    return _mm512_div_ps(x, _mm512_add_ps(power, _mm512_set1_ps(1)));
}

/* (16 outputs, 16 rows) sums to 16 rows of bfloat16, STRIP apart. Two outputs make one number of 32
 * bits before they are transposed. */
VNNI static void store_narrow(const float *c, const float *bias, int32_t gelu, uint16_t *y) {
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    __m512i v[8], t[8];
    for (int i = 0; i < 8; i++) {
        __m512 low = _mm512_add_ps(_mm512_loadu_ps(c + 2 * i * SIDE), _mm512_set1_ps(bias[2 * i]));
        __m512 high = _mm512_add_ps(_mm512_loadu_ps(c + (2 * i + 1) * SIDE),
                                    _mm512_set1_ps(bias[2 * i + 1]));
        if (gelu) low = quick_gelu(low), high = quick_gelu(high);
        v[i] = _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(rounded_up(low), 16),
                                       rounded_up(high));
    }
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            v[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + 2 + j]);
            v[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + 2 + j]);
        }
    for (int i = 0; i < 4; i++) {
        __m512i rows = _mm512_permutex2var_epi64(v[i], first, v[4 + i]);
        __m512i more = _mm512_permutex2var_epi64(v[i], second, v[4 + i]);
        __m256i *to = (__m256i *)(y + i * STRIP);
        _mm256_storeu_si256(to, _mm512_castsi512_si256(rows));
        _mm256_storeu_si256(to + STRIP / 4, _mm512_extracti64x4_epi64(rows, 1));
        _mm256_storeu_si256(to + STRIP / 2, _mm512_castsi512_si256(more));
        _mm256_storeu_si256(to + STRIP * 3 / 4, _mm512_extracti64x4_epi64(more, 1));
    }
}
#else
static void store_narrow(const float *c, const float *bias, int32_t gelu, uint16_t *y) {
    abort();
}
#endif

#endif
