/* Blocks of a product of bytes: WIDTH outputs by one or two tiles of rows, a span of inputs summed
 * as whole numbers before it meets its factors.
 *
 * Weights are 0 to 255, rows of x -127 to 127. Weights of a block, `w`, lie as [steps][2][16
 * outputs][64 inputs], and rows of x as [steps][tiles][16 fours of inputs][16 rows][4]; a span has
 * `span` steps, the last perhaps fewer. In span g a weight means code * scale[g][WIDTH] +
 * low[g][WIDTH], a number of x factor[g][tiles * 16] times what is stored, and total is factor times
 * the sum of these. Results lie as in tiles.h.
 */
#ifndef PHISIGHT_BYTES_H
#define PHISIGHT_BYTES_H

#include "weights.h"

#define FOURS 64 /* inputs of a step */
#define SQUARE (SIDE * FOURS) /* bytes of a tile */
#define CELLS (SIDE * SIDE) /* sums of a tile */

/* What multiplies bytes. PAIRS adds two products in 16 bits, so weights are 7 bits there at most. */
enum { BY_NONE, BY_PAIRS, BY_FOURS, BY_WIDE_FOURS, BY_BYTE_TILES };

typedef struct {
    const uint8_t *w;
    const float *scale, *low;
    const int8_t *x;
    const float *factor, *total;
    int64_t tiles, steps, span;
    int anew, few_bits; /* codes of 4 bits: sixteen products still fit 16 bits */
    float *c;
} Block;

#if defined(__x86_64__) && defined(__GNUC__)
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX_VNNI __attribute__((target("avx2,fma,avxvnni")))
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define OUT 4 /* outputs at once, by two halves of a tile's rows */
#define FOUR(from) ({ int32_t four_; memcpy(&four_, from, sizeof four_); four_; })

INLINE AVX2 void sum_pairs(const uint8_t *w, const int8_t *x, int64_t tiles, int64_t steps,
                           const int few_bits, __m256i sum[OUT][2]) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int64_t s = 0; s < steps; s++, w += 2 * SQUARE, x += tiles * SQUARE)
        for (int p = 0; p < SIDE; p += 8) {
            __m256i part[OUT][2];
            for (int j = 0; j < OUT; j++) part[j][0] = part[j][1] = _mm256_setzero_si256();
            for (int q = p; q < p + 8; q++)
                for (int h = 0; h < 2; h++) {
                    __m256i rows = _mm256_loadu_si256((const __m256i *)(x + q * FOURS + h * 32));
                    for (int j = 0; j < OUT; j++) {
                        __m256i four = _mm256_set1_epi32(FOUR(w + j * FOURS + 4 * q));
                        __m256i pairs = _mm256_maddubs_epi16(four, rows);
                        if (few_bits)
                            part[j][h] = _mm256_add_epi16(part[j][h], pairs);
                        else
                            sum[j][h] = _mm256_add_epi32(sum[j][h],
                                                         _mm256_madd_epi16(pairs, ones));
                    }
                }
            if (few_bits)
                for (int j = 0; j < OUT; j++)
                    for (int h = 0; h < 2; h++)
                        sum[j][h] = _mm256_add_epi32(sum[j][h],
                                                     _mm256_madd_epi16(part[j][h], ones));
        }
}

INLINE AVX_VNNI void sum_fours(const uint8_t *w, const int8_t *x, int64_t tiles, int64_t steps,
                               __m256i sum[OUT][2]) {
    for (int64_t s = 0; s < steps; s++, w += 2 * SQUARE, x += tiles * SQUARE)
        for (int q = 0; q < SIDE; q++) {
            __m256i first = _mm256_loadu_si256((const __m256i *)(x + q * FOURS));
            __m256i second = _mm256_loadu_si256((const __m256i *)(x + q * FOURS + 32));
            for (int j = 0; j < OUT; j++) {
                __m256i four = _mm256_set1_epi32(FOUR(w + j * FOURS + 4 * q));
                sum[j][0] = _mm256_dpbusd_avx_epi32(sum[j][0], four, first);
                sum[j][1] = _mm256_dpbusd_avx_epi32(sum[j][1], four, second);
            }
        }
}

INLINE AVX2 void add_eight(__m256i sum, float scale, float low, const float *factor,
                           const float *total, int anew, float *c) {
    __m256 by = _mm256_mul_ps(_mm256_loadu_ps(factor), _mm256_set1_ps(scale));
    __m256 before = anew ? _mm256_setzero_ps() : _mm256_loadu_ps(c);
    before = _mm256_fmadd_ps(_mm256_loadu_ps(total), _mm256_set1_ps(low), before);
    _mm256_storeu_ps(c, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), by, before));
}

/* Steps of the span that begins at step `s`. */
INLINE int64_t steps_from(const Block *b, int64_t s) {
    return b->steps - s < b->span ? b->steps - s : b->span;
}

#define BY_HALVES(name, target, ...) \
    target static void name(const Block *b) { \
        for (int64_t r = 0; r < b->tiles; r++) \
            for (int64_t o = 0; o < WIDTH; o += OUT) \
                for (int64_t s = 0, g = 0; s < b->steps; s += b->span, g++) { \
                    const uint8_t *w = b->w + s * 2 * SQUARE + o / SIDE * SQUARE + o % SIDE * FOURS; \
                    const int8_t *x = b->x + (s * b->tiles + r) * SQUARE; \
                    int64_t steps = steps_from(b, s); \
                    __m256i sum[OUT][2]; \
                    for (int j = 0; j < OUT; j++) sum[j][0] = sum[j][1] = _mm256_setzero_si256(); \
                    __VA_ARGS__; \
                    int64_t rows = (g * b->tiles + r) * SIDE; \
                    float *c = b->c + (o / SIDE * b->tiles + r) * CELLS + o % SIDE * SIDE; \
                    for (int j = 0; j < OUT; j++) \
                        for (int h = 0; h < 2; h++) \
                            add_eight(sum[j][h], b->scale[g * WIDTH + o + j], \
                                      b->low[g * WIDTH + o + j], b->factor + rows + h * 8, \
                                      b->total + rows + h * 8, b->anew && g == 0, \
                                      c + j * SIDE + h * 8); \
                } \
    }
BY_HALVES(multiply_nibbles, AVX2, sum_pairs(w, x, b->tiles, steps, 1, sum))
BY_HALVES(multiply_pairs, AVX2, sum_pairs(w, x, b->tiles, steps, 0, sum))
BY_HALVES(multiply_fours, AVX_VNNI, sum_fours(w, x, b->tiles, steps, sum))

/* Of the sums of span g, [2][tiles][16 outputs][16 rows], an eighth (with one tile a quarter), of
 * half a tile, to `c`. */
INLINE VNNI void add_part(const Block *b, const int32_t *sums, int64_t g, int64_t part) {
    int64_t tile = part / 2, first = part % 2 * (SIDE / 2), r = tile % b->tiles;
    int64_t output = g * WIDTH + tile / b->tiles * SIDE + first, rows = (g * b->tiles + r) * SIDE;
    const float *scale = b->scale + output, *low = b->low + output;
    __m512 factor = _mm512_loadu_ps(b->factor + rows), total = _mm512_loadu_ps(b->total + rows);
    float *c = b->c + tile * CELLS + first * SIDE;
    int anew = b->anew && g == 0;
    sums += tile * CELLS + first * SIDE;
    for (int j = 0; j < SIDE / 2; j++, c += SIDE, sums += SIDE) {
        __m512 before = anew ? _mm512_setzero_ps() : _mm512_loadu_ps(c);
        before = _mm512_fmadd_ps(total, _mm512_set1_ps(low[j]), before);
        __m512 by = _mm512_mul_ps(factor, _mm512_set1_ps(scale[j]));
        __m512 wide = _mm512_cvtepi32_ps(_mm512_loadu_si512(sums));
        _mm512_storeu_ps(c, _mm512_fmadd_ps(wide, by, before));
    }
}

VNNI static void multiply_wide_fours(const Block *b) {
    int32_t sums[4 * CELLS] __attribute__((aligned(64)));
    for (int64_t start = 0, g = 0; start < b->steps; start += b->span, g++) {
        int64_t steps = steps_from(b, start);
        for (int64_t tile = 0; tile < 2 * b->tiles; tile++) {
            const uint8_t *w = b->w + (start * 2 + tile / b->tiles) * SQUARE;
            const int8_t *x = b->x + (start * b->tiles + tile % b->tiles) * SQUARE;
            __m512i sum[SIDE];
            for (int j = 0; j < SIDE; j++) sum[j] = _mm512_setzero_si512();
            for (int64_t s = 0; s < steps; s++, w += 2 * SQUARE, x += b->tiles * SQUARE)
                for (int q = 0; q < SIDE; q++) {
                    __m512i rows = _mm512_loadu_si512(x + q * FOURS);
                    for (int j = 0; j < SIDE; j++)
                        sum[j] = _mm512_dpbusd_epi32(
                            sum[j], _mm512_set1_epi32(FOUR(w + j * FOURS + 4 * q)), rows);
                }
            for (int j = 0; j < SIDE; j++)
                _mm512_store_si512(sums + tile * CELLS + j * SIDE, sum[j]);
        }
        for (int64_t part = 0; part < 4 * b->tiles; part++) add_part(b, sums, g, part);
    }
}

static int has_fours(void) {
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#else
static void multiply_nibbles(const Block *b) { abort(); }
static void multiply_pairs(const Block *b) { abort(); }
static void multiply_fours(const Block *b) { abort(); }
static void multiply_wide_fours(const Block *b) { abort(); }
static int has_fours(void) { return 0; }
#endif

#if defined(AMX)
#define BYTE_TILES __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,amx-tile,amx-int8")))

/* What the tiles gave for a span is added up between the products of the next: by itself the
 * processor does not look so far ahead (56 ns for a tile's 128 inputs, 43 so). */
BYTE_TILES static void multiply_byte_tiles(const Block *b) {
    int32_t sums[4 * CELLS] __attribute__((aligned(64)));
    int64_t tiles = b->tiles, parts = 4 * tiles, added = parts, g = 0;
    const uint8_t *w = b->w;
    const int8_t *x = b->x;
#define ADD_ONE() do { if (added < parts) add_part(b, sums, g - 1, added++); } while (0)
    __asm__ volatile("" ::: "memory"); /* GCC takes a tile's loading for no reading of memory */
    for (int64_t start = 0; start < b->steps; start += b->span, g++) {
        int64_t steps = steps_from(b, start);
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int64_t s = 0; s < steps; s++, w += 2 * SQUARE, x += tiles * SQUARE) {
            _tile_loadd(4, w, FOURS);
            _tile_loadd(6, x, FOURS);
            _tile_dpbusd(0, 4, 6);
            ADD_ONE();
            if (tiles == 2) {
                _tile_loadd(7, x + SQUARE, FOURS);
                _tile_dpbusd(1, 4, 7);
                if (steps <= 2) ADD_ONE();
            }
            _tile_loadd(5, w + SQUARE, FOURS);
            _tile_dpbusd(2, 5, 6);
            if (steps <= 2) ADD_ONE();
            if (tiles == 2) {
                _tile_dpbusd(3, 5, 7);
                if (steps <= 2) ADD_ONE();
            }
        }
        while (added < parts) ADD_ONE();
        _tile_stored(0, sums, 4 * SIDE);
        _tile_stored(2, sums + tiles * CELLS, 4 * SIDE);
        if (tiles == 2) {
            _tile_stored(1, sums + CELLS, 4 * SIDE);
            _tile_stored(3, sums + 3 * CELLS, 4 * SIDE);
        }
        added = 0;
    }
    while (added < parts) ADD_ONE();
}
#else
static void multiply_byte_tiles(const Block *b) { abort(); }
#endif

/* Whether the processor has a way, and those that it is better than, and may use it. */
static int has_bytes(int32_t way) {
#if defined(__x86_64__) && defined(__GNUC__)
    switch (way) {
    case BY_PAIRS: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case BY_FOURS: return has_fours();
    case BY_WIDE_FOURS: return __builtin_cpu_supports("avx512vnni") &&
                               __builtin_cpu_supports("avx512bw") &&
                               __builtin_cpu_supports("avx512dq") &&
                               __builtin_cpu_supports("avx512vl");
    case BY_BYTE_TILES: {
        unsigned a, b, c, d;
        return has_tiles() && __builtin_cpu_supports("avx512vnni") &&
               __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 25 & 1);
    }
    }
#endif
    return way == BY_NONE;
}

static void multiply_bytes(int32_t way, const Block *block) {
    switch (way) {
    case BY_PAIRS:
        if (block->few_bits)
            multiply_nibbles(block);
        else
            multiply_pairs(block);
        break;
    case BY_FOURS: multiply_fours(block); break;
    case BY_WIDE_FOURS: multiply_wide_fours(block); break;
    default: multiply_byte_tiles(block);
    }
}

#endif
