/* Linear layers whose inputs are rounded to 8 bits, a factor for each group of a row, over weights
 * of 4, 7 or 8 bits; `phisight.kernels.rounded` is their definition. By blocks, as in rows.c.
 *
 * Dimensions: m rows of x, n outputs, k inputs (padded with zeros to whole groups).
 */
#include "round.h"

#define CACHED (1024 << 10) /* bytes of rows that stay in a core's second cache */
#define PIECE 4 /* groups whose weights, of WIDTH outputs, stay in its first */

typedef struct {
    int32_t way, kind, narrow;
    int64_t m, n, width, groups;
    const void *x;
    int8_t *rows; /* as tiles, pair of tiles by pair */
    float *factors, *totals; /* pair by pair, [groups][tiles * 16] */
    const float *bias;
    void *y;
} Job;

/* `groups` groups from `start` of outputs from `first`, as bytes.h wants them. */
CLONED static void unpack_bytes(const Weights *w, int64_t first, int64_t start, int64_t groups,
                                uint8_t *to, float *scale, float *low) {
    int64_t all = (w->k + GROUP - 1) / GROUP;
    for (int64_t j = 0; j < WIDTH; j++) {
        int64_t row = first + j;
        uint8_t *out = to + j / SIDE * SQUARE + j % SIDE * FOURS;
        const char *codes = (const char *)w->codes;
        for (int64_t g = 0; g < groups; g++, out += 4 * SQUARE) {
            int64_t at = row * all + start + g;
            float by = 0, under = 0;
            Words even = {0}, odd = {0};
            if (row < w->n && w->kind == INT4) {
                by = widened(w->scales[at]), under = widened(w->offsets[at]) - 8 * by;
                __builtin_prefetch(codes + (at + groups) * GROUP / 2);
                Words q = LOAD(Words, codes + at * GROUP / 2);
                even = q & 0x0F0F0F0F, odd = q >> 4 & 0x0F0F0F0F;
            } else if (row < w->n && w->kind == INT7) {
                by = widened(w->scales[at]), under = widened(w->offsets[at]) - 64 * by;
                even = LOAD(Words, codes + at * GROUP);
                odd = LOAD(Words, codes + at * GROUP + FOURS);
            } else if (row < w->n) {
                by = widened(w->scales[row]), under = -128 * by;
                int64_t from = (start + g) * GROUP, left = w->k - from;
                __builtin_prefetch(codes + row * w->k + from + groups * GROUP);
                char padded[GROUP] = {0};
                memcpy(padded, codes + row * w->k + from, left < GROUP ? (size_t)left : GROUP);
                even = LOAD(Words, padded) ^ (int32_t)0x80808080;
                odd = LOAD(Words, padded + FOURS) ^ (int32_t)0x80808080;
            }
            memcpy(out, &even, FOURS);
            memcpy(out + 2 * SQUARE, &odd, FOURS);
            scale[g * WIDTH + j] = by, low[g * WIDTH + j] = under;
        }
    }
}

/* A pair of tiles of rows from `first`; `own` has room for one. */
static void lay_rows(const Job *job, int64_t first, int8_t *own) {
    int64_t left = job->m - first, inputs = job->groups * GROUP, tiles = left > SIDE ? 2 : 1;
    int64_t count = left < 2 * SIDE ? left : 2 * SIDE, skip = first * job->groups;
    float *factors = job->factors + skip, *totals = job->totals + skip;
    memset(factors, 0, sizeof(float) * (size_t)(job->groups * tiles * SIDE));
    memset(totals, 0, sizeof(float) * (size_t)(job->groups * tiles * SIDE));
    for (int64_t i = 0; i < count; i++)
        round_row(row_at(job->x, job->narrow, (first + i) * job->width), job->narrow, job->width,
                  job->kind == INT4, own + i * inputs, factors + i, totals + i, tiles * SIDE);
    int8_t *to = job->rows + first * inputs;
    if (job->way >= BY_WIDE_FOURS) {
        lay_bfloat16((uint16_t *)own, inputs / 2, count, inputs / 2, tiles, inputs / FOURS,
                     (uint16_t *)to);
        return;
    }
    for (int64_t s = 0; s < inputs / FOURS; s++)
        for (int64_t r = 0; r < tiles; r++, to += SQUARE)
            for (int64_t i = 0; i < SIDE; i++)
                for (int64_t q = 0; q < SIDE; q++)
                    if (r * SIDE + i < count)
                        memcpy(to + q * FOURS + 4 * i,
                               own + (r * SIDE + i) * inputs + s * FOURS + 4 * q, 4);
                    else
                        memset(to + q * FOURS + 4 * i, 0, 4);
}

#if defined(__x86_64__) && defined(__GNUC__)
VNNI static void store_wide(const float *c, const float *bias, int32_t narrow, void *y, int64_t n,
                            int64_t rows, int64_t outputs) {
    __m512i v[SIDE];
    for (int i = 0; i < SIDE; i++) v[i] = _mm512_loadu_si512(c + i * SIDE);
    transpose(v);
    __mmask16 there = outputs >= SIDE ? 0xFFFF : (__mmask16)((1u << outputs) - 1);
    __m512 add = bias ? _mm512_maskz_loadu_ps(there, bias) : _mm512_setzero_ps();
    for (int i = 0; i < SIDE && i < rows; i++) {
        __m512 wide = _mm512_add_ps(_mm512_castsi512_ps(v[i]), add);
        if (!narrow) {
            _mm512_mask_storeu_ps((float *)y + i * n, there, wide);
            continue;
        }
        __m512i bits = _mm512_castps_si512(wide);
        __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
        _mm256_mask_storeu_epi16((uint16_t *)y + i * n, there,
                                 _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
    }
}
#else
static void store_wide(const float *c, const float *bias, int32_t narrow, void *y, int64_t n,
                       int64_t rows, int64_t outputs) { abort(); }
#endif

static void store_tile(const Job *job, const float *c, int64_t row, int64_t output) {
    int64_t rows = job->m - row, outputs = job->n - output, at = row * job->n + output;
    const float *bias = job->bias ? job->bias + output : NULL;
    if (job->way >= BY_WIDE_FOURS) {
        void *y = job->narrow ? (void *)((uint16_t *)job->y + at) : (void *)((float *)job->y + at);
        store_wide(c, bias, job->narrow, y, job->n, rows, outputs);
        return;
    }
    for (int64_t r = 0; r < SIDE && r < rows; r++)
        for (int64_t o = 0; o < SIDE && o < outputs; o++) {
            float one = c[o * SIDE + r] + (bias ? bias[o] : 0);
            if (job->narrow)
                ((uint16_t *)job->y)[at + r * job->n + o] = narrowed(one);
            else
                ((float *)job->y)[at + r * job->n + o] = one;
        }
}

/* Rows `row` to `end` of outputs from `first`; `own` holds a piece of weights, `c` the sums. */
static void multiply_panel(const Job *job, const Weights *w, int64_t row, int64_t end,
                           int64_t first, uint8_t *own, float *c) {
    float scale[PIECE * WIDTH], low[PIECE * WIDTH];
    int64_t inputs = job->groups * GROUP;
    for (int64_t start = 0; start < job->groups; start += PIECE) {
        int64_t left = job->groups - start, groups = left < PIECE ? left : PIECE;
        unpack_bytes(w, first, start, groups, own, scale, low);
        for (int64_t r = row; r < end; r += 2 * SIDE) {
            int64_t tiles = job->m - r > SIDE ? 2 : 1;
            int64_t skip = r * job->groups + start * tiles * SIDE;
            Block block = {own, scale, low, job->rows + r * inputs + start * tiles * SIDE * GROUP,
                           job->factors + skip, job->totals + skip, tiles, groups, start == 0,
                           w->kind == INT4, c + (r - row) / SIDE * 2 * CELLS};
            multiply_bytes(job->way, &block);
        }
    }
    for (; row < end; row += 2 * SIDE, c += 4 * CELLS) {
        int64_t tiles = job->m - row > SIDE ? 2 : 1;
        for (int64_t o = 0; o < WIDTH && first + o < w->n; o += SIDE)
            for (int64_t r = 0; r < tiles; r++)
                store_tile(job, c + (o / SIDE * tiles + r) * CELLS, row + r * SIDE, first + o);
    }
}

/* x (m, width) to y (m, n), both bfloat16 if `narrow`, else float32. codes (n, ...) as `kind` says,
 * scales and offsets bfloat16, no offsets of 8 bits; a bias (n) or none. 0, or 1 without memory. */
int32_t phisight_rounded(const void *x, const void *codes, const uint16_t *scales,
                         const uint16_t *offsets, const float *bias, void *y, int64_t m,
                         int64_t width, int64_t n, int32_t kind, int32_t narrow, int32_t way,
                         int32_t threads) {
    int64_t groups = (width + GROUP - 1) / GROUP, inputs = groups * GROUP;
    int64_t pairs = (m + 2 * SIDE - 1) / (2 * SIDE), cells = pairs * 2 * SIDE * groups;
    Weights weights = {kind, codes, scales, offsets, n, kind == INT8 ? width : inputs};
    Job job = {way, kind, narrow, m, n, width, groups, x, NULL, NULL, NULL, bias, y};
    int64_t most = CACHED / inputs / (2 * SIDE) * (2 * SIDE);
    most = most < 2 * SIDE ? 2 * SIDE : most;
    int64_t panels = (m + most - 1) / most;
    int64_t panel = panels ? (pairs + panels - 1) / panels * 2 * SIDE : 2 * SIDE; /* rows */
    job.rows = aligned_alloc(64, (size_t)(cells * GROUP + 64));
    job.factors = aligned_alloc(64, sizeof(float) * (size_t)(cells + SIDE));
    job.totals = aligned_alloc(64, sizeof(float) * (size_t)(cells + SIDE));
    int32_t failed = !job.rows || !job.factors || !job.totals;
#pragma omp parallel num_threads(threads)
    {
        uint8_t *own = aligned_alloc(64, PIECE * 4 * SQUARE);
        int8_t *laid = aligned_alloc(64, (size_t)(2 * SIDE * inputs));
        float *c = aligned_alloc(64, sizeof(float) * (size_t)(panel * WIDTH));
        if (!own || !laid || !c) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t row = 0; row < (failed ? 0 : m); row += 2 * SIDE) lay_rows(&job, row, laid);
        if (way == BY_BYTE_TILES) begin_tiles();
        for (int64_t row = 0; row < (failed ? 0 : m); row += panel)
/* A thread has the same outputs each time, and no other reads them. */
#pragma omp for schedule(static) nowait
            for (int64_t first = 0; first < n; first += WIDTH)
                multiply_panel(&job, &weights, row, row + panel < m ? row + panel : m, first, own,
                               c);
        if (way == BY_BYTE_TILES) end_tiles();
        free(own);
        free(laid);
        free(c);
    }
    free(job.rows);
    free(job.factors);
    free(job.totals);
    return failed;
}

/* The best of the ways to multiply bytes that this machine has. */
int32_t phisight_best_bytes(void) {
    int32_t way = BY_BYTE_TILES;
    while (!has_bytes(way)) way--;
    return way;
}

int32_t phisight_has_bytes(int32_t way) { return has_bytes(way); }
