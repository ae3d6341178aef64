/* Few rows, rounded to 8 or 16 bits, over weights of 4 or 8 bits: each row of weights is read once,
 * as it lies. What rounded.c computes, where reading the weights is what takes the time.
 *
 * Dimensions: m rows of x, n outputs, k inputs in whole groups.
 */
#include "round.h"
#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif

#define OUTPUTS 32 /* a thread takes so many together */
#define AT_ONCE 4 /* rows of x */
#define AHEAD 4096 /* bytes */

typedef struct {
    int32_t kind, narrow, bits;
    int64_t n, k, groups;
    const char *codes;
    const uint16_t *scales, *offsets;
    const int8_t *rows; /* (m, k) of `bits` bits */
    const float *factors, *totals; /* (m, groups) */
    void *y;
} Few;

static void store_one(const Few *f, int64_t at, float one) {
    if (f->narrow)
        ((uint16_t *)f->y)[at] = narrowed(one);
    else
        ((float *)f->y)[at] = one;
}

/* To each group what its whole number is multiplied by; the sum of what the offsets add. */
CLONED static float meet(const Few *f, int64_t row, int64_t j, float *by) {
    const float *factor = f->factors + row * f->groups, *total = f->totals + row * f->groups;
    float low = 0;
    if (f->kind == INT8) {
        float scale = widened(f->scales[j]);
        for (int64_t g = 0; g < f->groups; g++) by[g] = factor[g] * scale;
        if (f->bits == 16) return 0; /* codes keep their sign */
        for (int64_t g = 0; g < f->groups; g++) low += total[g];
        return -128 * scale * low;
    }
    const uint16_t *scales = f->scales + j * f->groups, *offsets = f->offsets + j * f->groups;
    for (int64_t g = 0; g < f->groups; g++) by[g] = factor[g] * widened(scales[g]);
    for (int64_t g = 0; g < f->groups; g++)
        low += (widened(offsets[g]) - 8 * widened(scales[g])) * total[g];
    return low;
}

INLINE void meet_all(const int rows, const Few *f, int64_t first, int64_t j, float *by,
                     float *low) {
    for (int r = 0; r < rows; r++) low[r] = meet(f, first + r, j, by + r * f->groups);
}

#if defined(__x86_64__) && defined(__GNUC__)
/* Loaded once: GCC would rather load a number again wherever it is used, and loads are what these
 * loops have too many of. */
#define IN_REGISTER(from) ({ __m512i one_ = from; __asm__("" : "+v"(one_)); one_; })

/* An output of `rows` rows of x, a constant where this is inlined. */
INLINE VNNI void few_wide(const int rows, const int four, const Few *f, int64_t first, int64_t j,
                          float *by) {
    const __m512i nibbles = _mm512_set1_epi8(15), high = _mm512_set1_epi8((char)0x80);
    const char *codes = f->codes + j * f->k / (four ? 2 : 1);
    const int8_t *x = f->rows + first * f->k;
    __m512 total[AT_ONCE] = {{0}};
    float low[AT_ONCE];
    meet_all(rows, f, first, j, by, low);
    for (int64_t g = 0; g < f->groups; g++) {
        __m512i a, b;
        if (four) {
            _mm_prefetch(codes + AHEAD, _MM_HINT_T0);
            __m512i q = IN_REGISTER(_mm512_loadu_si512(codes));
            a = _mm512_and_si512(q, nibbles);
            b = _mm512_and_si512(_mm512_srli_epi16(q, 4), nibbles);
            codes += GROUP / 2;
        } else {
            _mm_prefetch(codes + AHEAD, _MM_HINT_T0);
            _mm_prefetch(codes + AHEAD + FOURS, _MM_HINT_T0);
            a = _mm512_xor_si512(_mm512_loadu_si512(codes), high);
            b = _mm512_xor_si512(_mm512_loadu_si512(codes + FOURS), high);
            codes += GROUP;
        }
        for (int r = 0; r < rows; r++) {
            const int8_t *part = x + r * f->k + g * GROUP;
            __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), a, _mm512_loadu_si512(part));
            sum = _mm512_dpbusd_epi32(sum, b, _mm512_loadu_si512(part + FOURS));
            total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum),
                                       _mm512_set1_ps(by[r * f->groups + g]), total[r]);
        }
    }
    for (int r = 0; r < rows; r++)
        store_one(f, (first + r) * f->n + j, _mm512_reduce_add_ps(total[r]) + low[r]);
}

/* As few_wide, of x in 16 bits. */
INLINE VNNI void few_wide_words(const int rows, const int four, const Few *f, int64_t first,
                                int64_t j, float *by) {
    const __m512i nibbles = _mm512_set1_epi16(15);
    const char *codes = f->codes + j * f->k / (four ? 2 : 1);
    const int16_t *x = (const int16_t *)f->rows + first * f->k;
    __m512 total[AT_ONCE] = {{0}};
    float low[AT_ONCE];
    meet_all(rows, f, first, j, by, low);
    for (int64_t g = 0; g < f->groups; g++, codes += GROUP / (four ? 2 : 1)) {
        __m512i part[4];
        _mm_prefetch(codes + AHEAD, _MM_HINT_T0);
        if (four) {
            __m512i q = IN_REGISTER(_mm512_loadu_si512(codes));
            part[0] = _mm512_and_si512(q, nibbles);
            part[1] = _mm512_and_si512(_mm512_srli_epi16(q, 4), nibbles);
            part[2] = _mm512_and_si512(_mm512_srli_epi16(q, 8), nibbles);
            part[3] = _mm512_srli_epi16(q, 12);
        } else {
            _mm_prefetch(codes + AHEAD + FOURS, _MM_HINT_T0);
            for (int p = 0; p < 4; p++)
                part[p] = _mm512_cvtepi8_epi16(
                    _mm256_loadu_si256((const __m256i *)(codes + p * PLANE)));
        }
        for (int r = 0; r < rows; r++) {
            const int16_t *from = x + r * f->k + g * GROUP;
            __m512i sum = _mm512_setzero_si512();
            for (int p = 0; p < 4; p++)
                sum = _mm512_dpwssd_epi32(sum, part[p], _mm512_loadu_si512(from + p * PLANE));
            total[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum),
                                       _mm512_set1_ps(by[r * f->groups + g]), total[r]);
        }
    }
    for (int r = 0; r < rows; r++)
        store_one(f, (first + r) * f->n + j, _mm512_reduce_add_ps(total[r]) + low[r]);
}

INLINE AVX2 float added(__m256 wide) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(wide), _mm256_extractf128_ps(wide, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

/* By words of 16 bits, which 128 products of 4 bits by 8 fit as eight sums of sixteen. */
INLINE AVX2 void few_nibbles(const int rows, const Few *f, int64_t first, int64_t j, float *by) {
    const __m256i nibbles = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    const char *codes = f->codes + j * f->k / 2;
    const int8_t *x = f->rows + first * f->k;
    __m256 total[AT_ONCE] = {{0}};
    float low[AT_ONCE];
    meet_all(rows, f, first, j, by, low);
    for (int64_t g = 0; g < f->groups; g++, codes += GROUP / 2) {
        _mm_prefetch(codes + AHEAD, _MM_HINT_T0);
        __m256i q[2], part[4];
        for (int h = 0; h < 2; h++) {
            q[h] = _mm256_loadu_si256((const __m256i *)(codes + h * 32));
            part[h] = _mm256_and_si256(q[h], nibbles);
            part[2 + h] = _mm256_and_si256(_mm256_srli_epi16(q[h], 4), nibbles);
        }
        for (int r = 0; r < rows; r++) {
            const __m256i *from = (const __m256i *)(x + r * f->k + g * GROUP);
            __m256i pair[2];
            for (int h = 0; h < 2; h++)
                pair[h] = _mm256_add_epi16(
                    _mm256_maddubs_epi16(part[2 * h], _mm256_loadu_si256(from + 2 * h)),
                    _mm256_maddubs_epi16(part[2 * h + 1], _mm256_loadu_si256(from + 2 * h + 1)));
            __m256i sum = _mm256_madd_epi16(_mm256_add_epi16(pair[0], pair[1]), ones);
            total[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum),
                                       _mm256_set1_ps(by[r * f->groups + g]), total[r]);
        }
    }
    for (int r = 0; r < rows; r++) store_one(f, (first + r) * f->n + j, added(total[r]) + low[r]);
}

/* As few_nibbles, of x in 16 bits: the four codes of a word in turn. */
INLINE AVX2 void few_words(const int rows, const Few *f, int64_t first, int64_t j, float *by) {
    const __m256i nibbles = _mm256_set1_epi16(15);
    const char *codes = f->codes + j * f->k / 2;
    const int16_t *x = (const int16_t *)f->rows + first * f->k;
    __m256 total[AT_ONCE] = {{0}};
    float low[AT_ONCE];
    meet_all(rows, f, first, j, by, low);
    for (int64_t g = 0; g < f->groups; g++, codes += GROUP / 2) {
        _mm_prefetch(codes + AHEAD, _MM_HINT_T0);
        __m256i part[8];
        for (int h = 0; h < 2; h++) {
            __m256i q = _mm256_loadu_si256((const __m256i *)(codes + h * 32));
            part[h] = _mm256_and_si256(q, nibbles);
            part[2 + h] = _mm256_and_si256(_mm256_srli_epi16(q, 4), nibbles);
            part[4 + h] = _mm256_and_si256(_mm256_srli_epi16(q, 8), nibbles);
            part[6 + h] = _mm256_srli_epi16(q, 12);
        }
        for (int r = 0; r < rows; r++) {
            const __m256i *from = (const __m256i *)(x + r * f->k + g * GROUP);
            __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
            for (int p = 0; p < 8; p++)
                sum[p & 1] = _mm256_add_epi32(
                    sum[p & 1], _mm256_madd_epi16(part[p], _mm256_loadu_si256(from + p)));
            __m256 wide = _mm256_cvtepi32_ps(_mm256_add_epi32(sum[0], sum[1]));
            total[r] = _mm256_fmadd_ps(wide, _mm256_set1_ps(by[r * f->groups + g]), total[r]);
        }
    }
    for (int r = 0; r < rows; r++) store_one(f, (first + r) * f->n + j, added(total[r]) + low[r]);
}

#define BY_ROWS(name, target, one, ...) \
    target static void name(const Few *f, int64_t rows, int64_t first, int64_t j, float *by) { \
        switch (rows) { \
        case 1: one(1, __VA_ARGS__); break; \
        case 2: one(2, __VA_ARGS__); break; \
        case 3: one(3, __VA_ARGS__); break; \
        default: one(AT_ONCE, __VA_ARGS__); \
        } \
    }
BY_ROWS(few_int4_wide, VNNI, few_wide, 1, f, first, j, by)
BY_ROWS(few_int8_wide, VNNI, few_wide, 0, f, first, j, by)
BY_ROWS(few_int4_wide_words, VNNI, few_wide_words, 1, f, first, j, by)
BY_ROWS(few_int8_wide_words, VNNI, few_wide_words, 0, f, first, j, by)
BY_ROWS(few_int4_pairs, AVX2, few_nibbles, f, first, j, by)
BY_ROWS(few_int4_words, AVX2, few_words, f, first, j, by)
#else
static void few_int4_wide(const Few *f, int64_t rows, int64_t first, int64_t j, float *by) { abort(); }
static void few_int8_wide(const Few *f, int64_t rows, int64_t first, int64_t j, float *by) { abort(); }
static void few_int4_wide_words(const Few *f, int64_t rows, int64_t first, int64_t j, float *by) { abort(); }
static void few_int8_wide_words(const Few *f, int64_t rows, int64_t first, int64_t j, float *by) { abort(); }
static void few_int4_pairs(const Few *f, int64_t rows, int64_t first, int64_t j, float *by) { abort(); }
static void few_int4_words(const Few *f, int64_t rows, int64_t first, int64_t j, float *by) { abort(); }
#endif

typedef void One(const Few *, int64_t rows, int64_t first, int64_t j, float *by);

static One *best_of(int32_t kind, int32_t way, int32_t bits) {
    if (way < BY_WIDE_FOURS) return bits == 16 ? few_int4_words : few_int4_pairs;
    if (bits == 16) return kind == INT8 ? few_int8_wide_words : few_int4_wide_words;
    return kind == INT8 ? few_int8_wide : few_int4_wide;
}

/* As phisight_rounded, for INT4 and INT8 (which takes BY_WIDE_FOURS and whole groups); x to 8 bits
 * or 16. */
int32_t phisight_rounded_few(const void *x, const void *codes, const uint16_t *scales,
                             const uint16_t *offsets, void *y, int64_t m, int64_t width, int64_t n,
                             int32_t kind, int32_t narrow, int32_t way, int32_t bits,
                             int32_t threads) {
    int64_t groups = (width + GROUP - 1) / GROUP, k = groups * GROUP;
    int8_t *rows = aligned_alloc(64, (size_t)(m * k * bits / 8 + 64));
    float *factors = malloc(sizeof(float) * (size_t)(2 * m * groups + 1));
    float *by = malloc(sizeof(float) * (size_t)(threads * AT_ONCE * groups + 1));
    int32_t failed = !rows || !factors || !by;
    float *totals = factors + m * groups;
    for (int64_t r = 0; r < (failed ? 0 : m); r++)
        round_row(row_at(x, narrow, r * width), narrow, width, kind, bits,
                  rows + r * k * bits / 8, factors + r * groups, totals + r * groups, 1);
    Few f = {kind, narrow, bits, n, k, groups, codes, scales, offsets, rows, factors, totals, y};
    One *one = best_of(kind, way, bits);
/* In shares that shrink: others may want one of the cores for a while. */
#pragma omp parallel for schedule(guided) num_threads(threads)
    for (int64_t start = 0; start < (failed ? 0 : n); start += OUTPUTS) {
        float *own = by + AT_ONCE * groups * THREAD;
        for (int64_t r = 0; r < m; r += AT_ONCE)
            for (int64_t j = start; j < start + OUTPUTS && j < n; j++) one(&f, m - r, r, j, own);
    }
    free(rows);
    free(factors);
    free(by);
    return failed;
}
