/* Blocks of stored weights, unpacked as tiles.h wants them. */
#ifndef PHISIGHT_WEIGHTS_H
#define PHISIGHT_WEIGHTS_H

#include "tiles.h"

#define GROUP 128
#define PLANE 32 /* codes of a group that stand at the same four bits of its 32 words */

enum { INT8, INT4, INT7 };

typedef struct {
    int32_t kind;
    const void *codes;
    const uint16_t *scales, *offsets;
    int64_t n, k;
} Weights;

/* What follows unpacks inputs `start` to `stop` of outputs `first` to `first + WIDTH`, zeros where
 * there are none; 8 bits without an output's scale, which goes to the result. */
CLONED static void unpack_float(const Weights *w, int64_t first, int64_t start, int64_t stop,
                                float *out) {
    for (int64_t j = 0; j < WIDTH; j++, out++) {
        int64_t row = first + j;
        if (row >= w->n) {
            for (int64_t i = 0; i < stop - start; i++) out[i * WIDTH] = 0;
        } else if (w->kind == INT8) {
            const int8_t *codes = (const int8_t *)w->codes + row * w->k + start;
            for (int64_t i = 0; i < stop - start; i++) out[i * WIDTH] = codes[i];
        } else
            for (int64_t i = 0; i < stop - start; i += GROUP) {
                int64_t group = row * (w->k / GROUP) + (start + i) / GROUP;
                const uint16_t *words = (const uint16_t *)w->codes + group * PLANE;
                float scale = widened(w->scales[group]), offset = widened(w->offsets[group]);
                float numbers[GROUP];
                for (int u = 0; u < PLANE; u += LANES) {
                    Words q = __builtin_convertvector(LOAD(Halves, words + u), Words);
                    for (int p = 0; p < 4; p++) {
                        Words code = (q >> (4 * p) & 15) - 8;
                        Wide value = __builtin_convertvector(code, Wide) * scale + offset;
                        memcpy(numbers + p * PLANE + u, &value, sizeof value);
                    }
                }
                for (int64_t c = 0; c < GROUP; c++) out[(i + c) * WIDTH] = numbers[c];
            }
    }
}

#if defined(__x86_64__) && defined(__GNUC__)
static int has_bfloat16(void) { return !!__builtin_cpu_supports("avx512bf16"); }

/* A group's sixteen possible weights are rounded to bfloat16, and looked up: of each index the
 * processor reads five bits, so sixteen stand there twice. */
INLINE BF16 void unpack_int4(const Weights *w, int64_t row, int64_t start, int64_t stop,
                             const char *next, uint16_t *out) {
    int64_t first = row * (w->k / GROUP) + start / GROUP;
    const uint16_t *words = (const uint16_t *)w->codes + first * PLANE;
    const uint16_t *scales = w->scales + first, *offsets = w->offsets + first;
    const __m512 codes = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    for (int64_t i = 0; i < (stop - start) / GROUP; i++, words += PLANE, out += 8 * TILE) {
        _mm_prefetch(next + i * 64, _MM_HINT_T0);
        __m512 scale = _mm512_set1_ps(widened(scales[i]));
        __m512 offset = _mm512_set1_ps(widened(offsets[i]));
        __m256i values = (__m256i)_mm512_cvtneps_pbh(_mm512_fmadd_ps(codes, scale, offset));
        __m512i table = _mm512_broadcast_i64x4(values), q = _mm512_loadu_si512(words);
        _mm512_store_si512(out, _mm512_permutexvar_epi16(q, table));
        _mm512_store_si512(out + 2 * TILE,
                           _mm512_permutexvar_epi16(_mm512_srli_epi16(q, 4), table));
        _mm512_store_si512(out + 4 * TILE,
                           _mm512_permutexvar_epi16(_mm512_srli_epi16(q, 8), table));
        _mm512_store_si512(out + 6 * TILE,
                           _mm512_permutexvar_epi16(_mm512_srli_epi16(q, 12), table));
    }
}

INLINE BF16 __mmask32 inputs_from(const Weights *w, int64_t i) {
    return w->k - i >= STEP ? ~0u : w->k > i ? (1u << (w->k - i)) - 1 : 0;
}

INLINE BF16 void unpack_int8(const Weights *w, int64_t row, int64_t start, int64_t stop,
                             const char *next, uint16_t *out) {
    const int8_t *codes = (const int8_t *)w->codes + row * w->k;
    for (int64_t i = start; i < stop; i += STEP, out += 2 * TILE) {
        if (i % 64 == 0) _mm_prefetch(next + (i - start), _MM_HINT_T0);
        __m256i bytes = _mm256_maskz_loadu_epi8(inputs_from(w, i), codes + i);
        __m512i low = _mm512_cvtepi8_epi32(_mm256_castsi256_si128(bytes));
        __m512i high = _mm512_cvtepi8_epi32(_mm256_extracti128_si256(bytes, 1));
        _mm512_store_si512(out, (__m512i)_mm512_cvtne2ps_pbh(_mm512_cvtepi32_ps(high),
                                                            _mm512_cvtepi32_ps(low)));
    }
}

BF16 static void unpack_bfloat16(const Weights *w, int64_t first, int64_t start, int64_t stop,
                                 uint16_t *out) {
    /* Too short a stretch of each row for the processor to see where it goes on. */
    int last = stop >= w->k;
    int64_t bits = w->kind == INT8 ? 8 : 4;
    for (int64_t j = 0; j < WIDTH; j++) {
        uint16_t *to = out + j / SIDE * TILE + j % SIDE * STEP;
        int64_t row = first + j, after = (last ? row + WIDTH : row) * w->k + (last ? 0 : stop);
        const char *next = (const char *)w->codes + after * bits / 8;
        if (row >= w->n)
            for (int64_t i = start; i < stop; i += STEP, to += 2 * TILE)
                _mm512_store_si512(to, _mm512_setzero_si512());
        else if (w->kind == INT4)
            unpack_int4(w, row, start, stop, next, to);
        else
            unpack_int8(w, row, start, stop, next, to);
    }
}
#else
static int has_bfloat16(void) { return 0; }
static void unpack_bfloat16(const Weights *w, int64_t first, int64_t start, int64_t stop,
                            uint16_t *out) { abort(); }
#endif

#endif
