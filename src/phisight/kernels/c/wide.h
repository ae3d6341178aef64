/* LANES numbers at a time, in GCC's and Clang's vectors: each processor gets its own instructions
 * for them, picked when the library is loaded. Sixteen are AVX-512's; where there is none, the
 * library is built for eight, since GCC 12 puts vectors that are too long through memory (one row
 * by AVX2: 4.0 ms for 2.1; many rows 20 times as long). */
#ifndef PHISIGHT_WIDE_H
#define PHISIGHT_WIDE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#if defined(__x86_64__)
#define CLONED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONED
#endif

#ifndef LANES
#define LANES 16
#endif
typedef float Wide __attribute__((vector_size(4 * LANES)));
typedef int32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

#define LOAD(kind, from) ({ kind loaded; memcpy(&loaded, from, sizeof loaded); loaded; })
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12
#define SHUFFLED(v, ...) __builtin_shuffle(v, (Words){__VA_ARGS__})
#else
#define SHUFFLED(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#endif
#define FOLDED(v, ...) ((v) + SHUFFLED(v, __VA_ARGS__))
/* Of all lanes, by halves: one after the other, adding waits for adding. */
#if LANES == 16
#define SUM(wide) ({ \
    Wide v_ = (wide); \
    v_ = FOLDED(v_, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7); \
    v_ = FOLDED(v_, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11); \
    v_ = FOLDED(v_, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13); \
    v_ = FOLDED(v_, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14); \
    v_[0]; \
})
#elif LANES == 8
#define SUM(wide) ({ \
    Wide v_ = (wide); \
    v_ = FOLDED(v_, 4, 5, 6, 7, 0, 1, 2, 3); \
    v_ = FOLDED(v_, 2, 3, 0, 1, 6, 7, 4, 5); \
    v_ = FOLDED(v_, 1, 0, 3, 2, 5, 4, 7, 6); \
    v_[0]; \
})
#else
#error "LANES is 16 or 8"
#endif
/* LANES bfloat16 numbers as floats. */
#define WIDENED(from) ((Wide)(__builtin_convertvector(LOAD(Halves, from), Words) << 16))

/* To bfloat16, ties to even; no NaN comes here. */
#define NARROWED(to, wide) do { \
    Words bits_ = (Words)(wide); \
    bits_ = (bits_ + 0x7FFF + (bits_ >> 16 & 1)) >> 16; \
    Halves narrow_ = __builtin_convertvector(bits_, Halves); \
    memcpy(to, &narrow_, sizeof narrow_); \
} while (0)

INLINE float widened(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

INLINE uint16_t narrowed(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

#endif
