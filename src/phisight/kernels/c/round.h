/* Rows of numbers to bytes, by groups. */
#ifndef PHISIGHT_ROUND_H
#define PHISIGHT_ROUND_H

#include "bytes.h"

#define MOST 127.0f

INLINE const void *row_at(const void *x, int32_t narrow, int64_t at) {
    return narrow ? (const void *)((const uint16_t *)x + at) : (const void *)((const float *)x + at);
}

/* A row of `width` numbers to whole groups of bytes, in the order in which nibbles are unpacked if
 * `by_nibbles`; factors and totals go `stride` apart. What is not finite makes a factor that is not,
 * and so results that are not. */
CLONED static void round_row(const void *x, int32_t narrow, int64_t width, int by_nibbles,
                             int8_t *out, float *factors, float *totals, int64_t stride) {
    for (int64_t start = 0; start < width; start += GROUP, out += GROUP) {
        float numbers[GROUP];
        int8_t bytes[GROUP];
        int64_t count = width - start < GROUP ? width - start : GROUP;
        for (int64_t i = count; i < GROUP; i++) numbers[i] = 0;
        if (narrow)
            for (int64_t i = 0; i < count; i++)
                numbers[i] = widened(((const uint16_t *)x)[start + i]);
        else
            memcpy(numbers, (const float *)x + start, sizeof(float) * (size_t)count);
        int32_t most = 0; /* of the bits without sign: of two numbers, and of one and a NaN */
        for (int64_t i = 0; i < GROUP; i++) {
            int32_t bits;
            memcpy(&bits, numbers + i, sizeof bits);
            bits &= 0x7FFFFFFF;
            most = bits > most ? bits : most;
        }
        float top;
        memcpy(&top, &most, sizeof top);
        float by = top > 1e-30f ? MOST / top : 0;
        int32_t sum = 0;
        for (int64_t i = 0; i < GROUP; i++) {
            /* No sum, which might be fused with the product and round it otherwise. */
            int32_t nearest = (int32_t)__builtin_rintf(numbers[i] * by);
            bytes[i] = (int8_t)nearest;
            sum += nearest;
        }
        if (by_nibbles)
            for (int64_t i = 0; i < PLANE; i++) {
                out[2 * i] = bytes[i];
                out[2 * i + 1] = bytes[2 * PLANE + i];
                out[2 * PLANE + 2 * i] = bytes[PLANE + i];
                out[2 * PLANE + 2 * i + 1] = bytes[3 * PLANE + i];
            }
        else
            memcpy(out, bytes, GROUP);
        factors[start / GROUP * stride] = top / MOST;
        totals[start / GROUP * stride] = top / MOST * (float)sum;
    }
}

#endif
