/* Rows of numbers to bytes, with a factor for every span of them. */
#ifndef PHISIGHT_ROUND_H
#define PHISIGHT_ROUND_H

#include "bytes.h"

#define MOST 127.0f
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

/* A row of `width` numbers to whole groups of bytes, for weights of a kind; factors and totals go
 * `stride` apart. What is not finite makes a factor that is not, and so results that are not. */
CLONED static void round_row(const void *x, int32_t narrow, int64_t width, int32_t kind,
                             int8_t *out, float *factors, float *totals, int64_t stride) {
    int64_t span = span_of(kind);
    for (int64_t start = 0; start < width; start += span, factors += stride, totals += stride) {
        float numbers[SPAN];
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
            int32_t bits;
            memcpy(&bits, numbers + i, sizeof bits);
            bits &= 0x7FFFFFFF;
            most = bits > most ? bits : most;
        }
        float top;
        memcpy(&top, &most, sizeof top);
        float by = top > 1e-30f ? MOST / top : 0;
        int32_t sum = 0;
        for (int64_t i = 0; i < whole; i++) {
            /* No sum, which might be fused with the product and round it otherwise. */
            int32_t nearest = (int32_t)__builtin_rintf(numbers[i] * by);
            bytes[i] = (int8_t)nearest;
            sum += nearest;
        }
        if (kind == INT4)
            order_as_nibbles(bytes, out);
        else
            memcpy(out, bytes, (size_t)whole);
        out += whole;
        *factors = top / MOST;
        *totals = top / MOST * (float)sum;
    }
}

#endif
