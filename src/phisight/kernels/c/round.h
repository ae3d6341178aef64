/* Rows of numbers to whole ones of 8 bits, or 16, with a factor for every span of them. */
#ifndef PHISIGHT_ROUND_H
#define PHISIGHT_ROUND_H

#include "bytes.h"

#define SPAN (4 * GROUP) /* the longest */

INLINE int64_t span_of(int32_t kind) { return kind == INT7 ? SPAN : GROUP; }

INLINE const void *row_at(const void *x, int32_t narrow, int64_t at) {
    return narrow ? (const void *)((const uint16_t *)x + at) : (const void *)((const float *)x + at);
}

/* A group of bytes in the order in which `unpack_bytes` has those of 4 bits. */
INLINE void order_as_nibbles(const int8_t *bytes, int8_t *out) {
    for (int64_t i = 0; i < PLANE; i++) {
        out[2 * i] = bytes[i];
        out[2 * i + 1] = bytes[2 * PLANE + i];
        out[2 * PLANE + 2 * i] = bytes[PLANE + i];
        out[2 * PLANE + 2 * i + 1] = bytes[3 * PLANE + i];
    }
}

/* A row of `width` numbers to whole groups of `bits` bits each, for weights of a kind; factors and
 * totals go `stride` apart. What is not finite makes a factor that is not, and so results that are
 * not. */
CLONED static void round_row(const void *x, int32_t narrow, int64_t width, int32_t kind,
                             int32_t bits, void *out, float *factors, float *totals,
                             int64_t stride) {
    int64_t span = span_of(kind);
    float limit = (float)((1 << (bits - 1)) - 1);
    int8_t *to = out;
    for (int64_t start = 0; start < width; start += span, factors += stride, totals += stride) {
        float numbers[SPAN];
        int16_t words[SPAN];
        int8_t bytes[SPAN];
        int64_t left = width - start, count = left < span ? left : span;
        int64_t whole = (count + GROUP - 1) / GROUP * GROUP;
        for (int64_t i = count; i < whole; i++) numbers[i] = 0;
        if (narrow)
            for (int64_t i = 0; i < count; i++)
                numbers[i] = widened(((const uint16_t *)x)[start + i]);
        else
            memcpy(numbers, (const float *)x + start, sizeof(float) * (size_t)count);
        int32_t most = 0; /* of the bits without sign: NaN is more than any number */
        for (int64_t i = 0; i < whole; i++) {
            int32_t one;
            memcpy(&one, numbers + i, sizeof one);
            one &= 0x7FFFFFFF;
            most = one > most ? one : most;
        }
        float top;
        memcpy(&top, &most, sizeof top);
        float by = top > 1e-30f ? limit / top : 0;
        if (most >= 0x7F800000) memset(numbers, 0, sizeof numbers); /* no number to be rounded */
        int32_t sum = 0;
        for (int64_t i = 0; i < whole; i++) {
            /* No sum, which might be fused with the product and round it otherwise. */
            int32_t nearest = (int32_t)__builtin_rintf(numbers[i] * by);
            words[i] = (int16_t)nearest;
            sum += nearest;
        }
        for (int64_t i = 0; i < whole; i++) bytes[i] = (int8_t)words[i];
        if (bits == 16)
            memcpy(to, words, sizeof(int16_t) * (size_t)whole);
        else if (kind == INT4)
            order_as_nibbles(bytes, to);
        else
            memcpy(to, bytes, (size_t)whole);
        to += whole * (bits / 8);
        *factors = top / limit;
        *totals = top / limit * (float)sum;
    }
}

#if defined(VNNI)
/* As `round_row` does it, of bfloat16 to 8 bits: it takes a quarter of the time. */
VNNI static void round_narrow(const uint16_t *x, int64_t width, int32_t kind, int8_t *out,
                              float *factors, float *totals, int64_t stride) {
    int64_t span = span_of(kind);
    for (int64_t start = 0; start < width; start += span, factors += stride, totals += stride) {
        int64_t left = width - start, count = left < span ? left : span;
        int64_t whole = (count + GROUP - 1) / GROUP * GROUP;
        __m512i words[SPAN / 32], most = _mm512_setzero_si512(), sum = _mm512_setzero_si512();
        for (int64_t i = 0; i < whole; i += 32) {
            int64_t rest = count - i;
            __mmask32 there = rest >= 32 ? ~0u : rest > 0 ? (1u << rest) - 1 : 0;
            words[i / 32] = _mm512_maskz_loadu_epi16(there, x + start + i);
            most = _mm512_max_epu16(most, _mm512_and_si512(words[i / 32],
                                                           _mm512_set1_epi16(0x7FFF)));
        }
        __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(most),
                                        _mm512_extracti64x4_epi64(most, 1));
        __m128i eight = _mm_max_epu16(_mm256_castsi256_si128(half),
                                      _mm256_extracti128_si256(half, 1));
        /* The least of the complements: there is no instruction for the largest. */
        int bits = 0xFFFF ^ _mm_extract_epi16(_mm_minpos_epu16(_mm_xor_si128(
                                eight, _mm_set1_epi16(-1))), 0);
        float top = widened((uint16_t)bits), by = top > 1e-30f ? 127 / top : 0;
        __m512 step = _mm512_set1_ps(by);
        __mmask16 finite = bits < 0x7F80 ? 0xFFFF : 0; /* else there is no number to be rounded */
        __m512i whole_numbers[GROUP / 16];
        for (int64_t i = 0; i < whole; i += GROUP, out += GROUP) {
            for (int u = 0; u < GROUP / 16; u++) {
                __m512i pair = words[(i + 16 * u) / 32];
                __m256i part = u % 2 ? _mm512_extracti64x4_epi64(pair, 1)
                                     : _mm512_castsi512_si256(pair);
                __m512 wide = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(part),
                                                                    16));
                whole_numbers[u] = _mm512_maskz_cvtps_epi32(finite, _mm512_mul_ps(wide, step));
                sum = _mm512_add_epi32(sum, whole_numbers[u]);
            }
            if (kind != INT4) {
                for (int u = 0; u < GROUP / 16; u++)
                    _mm_storeu_si128((__m128i *)(out + 16 * u),
                                     _mm512_cvtepi32_epi8(whole_numbers[u]));
                continue;
            }
            for (int u = 0; u < GROUP / 32; u++) { /* as `order_as_nibbles` */
                __m512i low = _mm512_and_si512(whole_numbers[u], _mm512_set1_epi32(0xFF));
                __m512i high = _mm512_slli_epi32(whole_numbers[u + GROUP / 32], 8);
                _mm256_storeu_si256((__m256i *)(out + 32 * u),
                                    _mm512_cvtepi32_epi16(_mm512_or_si512(low, high)));
            }
        }
        *factors = top / 127;
        *totals = top / 127 * (float)_mm512_reduce_add_epi32(sum);
    }
}
#else
static void round_narrow(const uint16_t *x, int64_t width, int32_t kind, int8_t *out,
                         float *factors, float *totals, int64_t stride) { abort(); }
#endif

#endif
