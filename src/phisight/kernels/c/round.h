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

#endif
