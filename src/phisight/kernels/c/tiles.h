/* Blocks of a matrix product: WIDTH outputs by one or two tiles of x's rows.
 *
 * Weights of a block, `w`, lie as [steps][2][16 outputs][32 inputs], and rows of x, `x`, as
 * [steps][tiles][16 pairs of inputs][16 rows][2]: what a tile register of AMX takes. In float32 a
 * step has one input: [inputs][WIDTH] and [inputs][tiles][16 rows]. Results, `c`, are
 * [2 * tiles][16 outputs][16 rows]: output tile o and row tile r at o * tiles + r; added to what is
 * there, or `anew`.
 */
#ifndef PHISIGHT_TILES_H
#define PHISIGHT_TILES_H

#include "wide.h"

#define SIDE 16 /* of a tile */
#define STEP 32 /* inputs */
#define WIDTH 32 /* outputs of a block */
#define TILE (SIDE * STEP)

#define LINE 64 /* bytes of a cache's */
#define LARGE (2 << 20) /* bytes of results that leave a core's second cache before they are read */

/* Whether rows of `bytes` each are to be written past the caches: a product of 2885 x 1024 by 4096
 * outputs in 9.7 ms for 13.5, since what is overwritten is not read first. */
INLINE int goes_past(const void *y, int64_t rows, int64_t bytes) {
    return rows * bytes >= LARGE && (uintptr_t)y % LINE == 0 && bytes % LINE == 0;
}

/* What multiplies: a machine that has one has those before it. */
enum { BY_FLOAT, BY_BFLOAT16, BY_TILES };

CLONED static void multiply_float(const float *w, const float *x, int64_t tiles, int64_t k,
                                  int anew, float *c) {
    enum { OUT = 4 };
    for (int64_t r = 0; r < tiles; r++)
        for (int64_t first = 0; first < WIDTH; first += OUT) {
            float *to = c + (first / SIDE * tiles + r) * SIDE * SIDE + first % SIDE * SIDE;
            Wide sum[OUT][SIDE / LANES] = {{{0}}};
            if (!anew) memcpy(sum, to, sizeof sum);
            for (int64_t i = 0; i < k; i++)
                for (int u = 0; u < SIDE / LANES; u++) {
                    Wide row = LOAD(Wide, x + (i * tiles + r) * SIDE + u * LANES);
                    for (int o = 0; o < OUT; o++) sum[o][u] += row * w[i * WIDTH + first + o];
                }
            memcpy(to, sum, sizeof sum);
        }
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>
#define BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

/* Whole lines, if they go past the caches; done when `settle_lines` is. */
INLINE void put_line(char *to, const char *from, int64_t bytes, int past) {
    if (!past || bytes % LINE) {
        memcpy(to, from, (size_t)bytes);
        return;
    }
    for (int64_t i = 0; i < bytes; i += 16)
        _mm_stream_si128((__m128i *)(to + i), _mm_loadu_si128((const __m128i *)(from + i)));
}

INLINE void settle_lines(void) { _mm_sfence(); }

/* 2 to the x, to 3e-6 of it. The polynomial whose largest relative error on -0.5
 * to 0.5 is the least. */
INLINE AVX512 __m512 power_of_two(__m512 x) {
    __m512 whole = _mm512_roundscale_ps(x, 0), rest = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_set1_ps(9.5701013e-3f);
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(5.5917859e-2f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(2.4024744e-1f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(6.9312179e-1f));
    y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(9.9999928e-1f));
    return _mm512_scalef_ps(y, whole);
}

/* The transpose of 16 x 16 numbers. */
INLINE AVX512 void transpose(__m512i v[SIDE]) {
    __m512i t[SIDE];
    for (int i = 0; i < SIDE; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < SIDE; i += 4)
        for (int j = 0; j < 2; j++) {
            v[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + 2 + j]);
            v[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + 2 + j]);
        }
    for (int i = 0; i < 4; i++) {
        __m512i a = _mm512_shuffle_i32x4(v[i], v[4 + i], 0x88);
        __m512i b = _mm512_shuffle_i32x4(v[i], v[4 + i], 0xDD);
        __m512i c = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0x88);
        __m512i d = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0xDD);
        t[i] = _mm512_shuffle_i32x4(a, c, 0x88);
        t[8 + i] = _mm512_shuffle_i32x4(a, c, 0xDD);
        t[4 + i] = _mm512_shuffle_i32x4(b, d, 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(b, d, 0xDD);
    }
    for (int i = 0; i < SIDE; i++) v[i] = t[i];
}

/* `count` rows of `width` numbers, `stride` apart, as tiles; zeros where there are none. */
AVX512 __attribute__((unused)) static void lay_bfloat16(const uint16_t *x, int64_t stride,
                                                      int64_t count, int64_t width, int64_t tiles,
                                                      int64_t steps, uint16_t *out) {
    for (int64_t r = 0; r < tiles; r++)
        for (int64_t s = 0; s < steps; s++) {
            int64_t left = width - s * STEP;
            __mmask32 there = left >= STEP ? ~0u : left > 0 ? (1u << left) - 1 : 0;
            __m512i rows[SIDE];
            for (int i = 0; i < SIDE; i++) {
                int64_t row = r * SIDE + i;
                rows[i] = _mm512_maskz_loadu_epi16(row < count ? there : 0,
                                                   x + row * stride + s * STEP);
            }
            transpose(rows);
            uint16_t *to = out + (s * tiles + r) * TILE;
            for (int i = 0; i < SIDE; i++) _mm512_storeu_si512(to + i * STEP, rows[i]);
        }
}

/* All sixteen outputs of a tile are summed at once, a row of x a lane. */
BF16 static void multiply_bfloat16(const uint16_t *w, const uint16_t *x, int64_t tiles,
                                   int64_t steps, int anew, float *c) {
    for (int64_t o = 0; o < WIDTH / SIDE; o++)
        for (int64_t r = 0; r < tiles; r++) {
            float *to = c + (o * tiles + r) * SIDE * SIDE;
            __m512 sum[SIDE];
            for (int j = 0; j < SIDE; j++)
                sum[j] = anew ? _mm512_setzero_ps() : _mm512_loadu_ps(to + j * SIDE);
            for (int64_t s = 0; s < steps; s++) {
                const uint16_t *from = w + (s * 2 + o) * TILE;
                const uint16_t *rows = x + (s * tiles + r) * TILE;
                for (int p = 0; p < SIDE; p++) {
                    __m512i pair = _mm512_loadu_si512(rows + p * STEP);
                    for (int j = 0; j < SIDE; j++) {
                        int32_t both;
                        memcpy(&both, from + j * STEP + 2 * p, sizeof both);
                        sum[j] = _mm512_dpbf16_ps(sum[j], (__m512bh)pair,
                                                  (__m512bh)_mm512_set1_epi32(both));
                    }
                }
            }
            for (int j = 0; j < SIDE; j++)
                _mm512_storeu_ps(to + j * SIDE, sum[j]);
        }
}
#else
INLINE void put_line(char *to, const char *from, int64_t bytes, int past) {
    memcpy(to, from, (size_t)bytes);
}
INLINE void settle_lines(void) {}
static void lay_bfloat16(const uint16_t *x, int64_t stride, int64_t count, int64_t width,
                         int64_t tiles, int64_t steps, uint16_t *out) { abort(); }
static void multiply_bfloat16(const uint16_t *w, const uint16_t *x, int64_t tiles, int64_t steps,
                              int anew, float *c) { abort(); }
#endif

#if defined(__x86_64__) && defined(__linux__) && \
    (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#include <sys/syscall.h>
#include <unistd.h>
#define AMX __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16")))

/* Eight tiles of 16 rows of 64 bytes, for the calling thread. */
AMX static void begin_tiles(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) shape.bytes[i] = 2 * STEP, shape.rows[i] = SIDE;
    __asm__ volatile("" : "+m"(shape)); /* GCC takes its first eight bytes for all that is read */
    _tile_loadconfig(&shape);
}

AMX static void end_tiles(void) { _tile_release(); }

AMX static void multiply_tiles(const uint16_t *w, const uint16_t *x, int64_t tiles, int64_t steps,
                               int anew, float *c) {
    __asm__ volatile("" ::: "memory"); /* GCC takes a tile's loading for no reading of memory */
    float *low = c + tiles * SIDE * SIDE; /* of the second sixteen outputs */
    if (anew) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, c, 4 * SIDE);
        _tile_loadd(2, low, 4 * SIDE);
        if (tiles == 2) {
            _tile_loadd(1, c + SIDE * SIDE, 4 * SIDE);
            _tile_loadd(3, low + SIDE * SIDE, 4 * SIDE);
        }
    }
    if (tiles == 2) {
        for (int64_t s = 0; s < steps; s++, w += 2 * TILE, x += 2 * TILE) {
            for (int i = 2 * TILE; i < 4 * TILE; i += STEP) /* the next step's, into the first cache */
                _mm_prefetch((const char *)(x + i), _MM_HINT_T0);
            _tile_loadd(4, w, 2 * STEP);
            _tile_loadd(6, x, 2 * STEP);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, x + TILE, 2 * STEP);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, w + TILE, 2 * STEP);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(1, c + SIDE * SIDE, 4 * SIDE);
        _tile_stored(3, low + SIDE * SIDE, 4 * SIDE);
    } else
        for (int64_t s = 0; s < steps; s++, w += 2 * TILE, x += TILE) {
            _tile_loadd(4, w, 2 * STEP);
            _tile_loadd(6, x, 2 * STEP);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(5, w + TILE, 2 * STEP);
            _tile_dpbf16ps(2, 5, 6);
        }
    _tile_stored(0, c, 4 * SIDE);
    _tile_stored(2, low, 4 * SIDE);
}

/* Whether the processor has them and the system lets this process use them. */
static int has_tiles(void) {
    enum { REQUEST = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    int known = (d >> 22 & 1) && (d >> 24 & 1) && __builtin_cpu_supports("avx512bf16");
    return known && syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}
#else
static void begin_tiles(void) {}
static void end_tiles(void) {}
static void multiply_tiles(const uint16_t *w, const uint16_t *x, int64_t tiles, int64_t steps,
                           int anew, float *c) {
    abort(); /* has_tiles says no */
}
static int has_tiles(void) { return 0; }
#endif

#endif
