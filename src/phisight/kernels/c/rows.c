/* Linear layers of more rows than linear.c is for. A matrix is never unpacked whole: each thread
 * unpacks a block of it that stays in its cache, and multiplies all rows by that.
 *
 * Dimensions: m rows of x, n outputs, k inputs, of the weights (int4: a multiple of GROUP).
 */
#include "weights.h"

#define CACHED (1280 << 10) /* bytes of rows that stay in a core's second cache */
#define PIECE 512 /* inputs whose weights, of WIDTH outputs, stay in its first */

#if defined(__x86_64__) && defined(__GNUC__)
/* (16 outputs, 16 rows) twice, `low` and `high`, to up to 16 rows of 32 bfloat16 in (m, n): a line
 * of the cache each, written at once and `past` the caches, since what is as large has left them
 * before it is read (without, memory is read first, and whatever else is there pushed out). */
BF16 static void store_bfloat16(const float *low, const float *high, const float *scale,
                                uint16_t *y, int64_t n, int64_t rows, int64_t outputs, int past) {
    __m512i v[SIDE], u[SIDE];
    for (int i = 0; i < SIDE; i++) v[i] = _mm512_loadu_si512(low + i * SIDE);
    for (int i = 0; i < SIDE; i++) u[i] = _mm512_loadu_si512(high + i * SIDE);
    transpose(v);
    transpose(u);
    __mmask32 there = outputs >= WIDTH ? ~0u : (1u << outputs) - 1;
    __m512 by = _mm512_loadu_ps(scale), more = _mm512_loadu_ps(scale + SIDE);
    for (int i = 0; i < SIDE && i < rows; i++) {
        __m512i line = (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(_mm512_castsi512_ps(u[i]), more),
                                                    _mm512_mul_ps(_mm512_castsi512_ps(v[i]), by));
        if (past && outputs >= WIDTH)
            _mm512_stream_si512((void *)(y + i * n), line);
        else
            _mm512_mask_storeu_epi16(y + i * n, there, line);
    }
}
#else
static void store_bfloat16(const float *low, const float *high, const float *scale, uint16_t *y,
                           int64_t n, int64_t rows, int64_t outputs, int past) { abort(); }
#endif

static void lay_float(const float *x, int64_t m, int64_t width, int64_t first, int64_t tiles,
                      int64_t k, float *out) {
    for (int64_t r = 0; r < tiles * SIDE; r++)
        for (int64_t i = 0; i < k; i++)
            out[i * tiles * SIDE + r] = first + r < m && i < width ? x[(first + r) * width + i] : 0;
}

static void store_float(const float *c, const float *scale, float *y, int64_t n,
                        int64_t rows, int64_t outputs) {
    for (int64_t r = 0; r < SIDE && r < rows; r++)
        for (int64_t o = 0; o < SIDE && o < outputs; o++)
            y[r * n + o] = c[o * SIDE + r] * scale[o];
}

typedef struct {
    int32_t way, past; /* the caches, to y */
    int64_t m, width, bytes; /* of a row as it lies in tiles */
    char *rows; /* as tiles, pair of tiles by pair */
    void *y;
} Job;

/* Rows `row` to `end` by inputs `start` to `stop` of outputs `first` to `first + WIDTH`, added to
 * `c`; `own` holds a piece of weights. */
static void multiply_block(const Job *job, const Weights *w, int64_t row, int64_t end,
                           int64_t first, int64_t start, int64_t stop, void *own, float *c) {
    int64_t one = job->way == BY_FLOAT ? sizeof(float) : sizeof(uint16_t); /* number */
    int64_t length = PIECE * sizeof(uint16_t) / one, step = job->way == BY_FLOAT ? 1 : STEP;
    for (int64_t from = start; from < stop; from += length) {
        int64_t to = from + length < stop ? from + length : stop;
        if (job->way == BY_FLOAT)
            unpack_float(w, first, from, to, own);
        else
            unpack_bfloat16(w, first, from, to, own);
        int64_t steps = (to - from + step - 1) / step;
        float *sums = c;
        for (int64_t r = row; r < end; r += 2 * SIDE, sums += 4 * SIDE * SIDE) {
            int64_t tiles = job->m - r > SIDE ? 2 : 1;
            void *x = job->rows + r * job->bytes + from * tiles * SIDE * one;
            if (job->way == BY_FLOAT)
                multiply_float(own, x, tiles, steps, from == 0, sums);
            else if (job->way == BY_TILES)
                multiply_tiles(own, x, tiles, steps, from == 0, sums);
            else
                multiply_bfloat16(own, x, tiles, steps, from == 0, sums);
        }
    }
}

/* What has been summed in `c`, to y. */
static void store_block(const Job *job, const Weights *w, int64_t row, int64_t end,
                        int64_t first, const float *c) {
    float scale[WIDTH];
    for (int64_t j = 0; j < WIDTH; j++)
        scale[j] = w->kind == INT8 && first + j < w->n ? widened(w->scales[first + j]) : 1;
    for (; row < end; row += 2 * SIDE, c += 4 * SIDE * SIDE) {
        int64_t tiles = job->m - row > SIDE ? 2 : 1, outputs = w->n - first;
        for (int64_t r = 0; r < tiles; r++) {
            const float *low = c + r * SIDE * SIDE, *high = low + tiles * SIDE * SIDE;
            int64_t at = (row + r * SIDE) * w->n + first, rows = job->m - row - r * SIDE;
            if (job->way != BY_FLOAT) {
                store_bfloat16(low, high, scale, (uint16_t *)job->y + at, w->n, rows, outputs,
                               job->past);
                continue;
            }
            store_float(low, scale, (float *)job->y + at, w->n, rows, outputs);
            if (outputs > SIDE)
                store_float(high, scale + SIDE, (float *)job->y + at + SIDE, w->n, rows,
                            outputs - SIDE);
        }
    }
}

/* x (m, width) to y (m, n), both float32 where `way` is BY_FLOAT, else bfloat16. codes (n, ...) as
 * `kind` says, scales and offsets bfloat16, no offsets of 8 bits. 0, or 1 without memory. */
int32_t phisight_rows(const void *x, const void *codes, const uint16_t *scales,
                      const uint16_t *offsets, void *y, int64_t m,
                      int64_t width, int64_t n, int64_t k, int32_t kind, int32_t way,
                      int32_t threads) {
    Weights weights = {kind, codes, scales, offsets, n, k};
    int64_t one = way == BY_FLOAT ? sizeof(float) : sizeof(uint16_t);
    int64_t step = way == BY_FLOAT ? 1 : STEP, inputs = (k + step - 1) / step * step;
    Job job = {way, goes_past(y, m, n * one), m, width, inputs * one, NULL, y};
    /* Panels of rows that stay in the cache; of long rows a part of the inputs after the other,
     * so that enough rows fit. */
    int64_t part = m * job.bytes > CACHED && inputs > 4096 ? 4096 : inputs;
    int64_t most = CACHED / (part * one) / (2 * SIDE) * (2 * SIDE);
    most = most < 2 * SIDE ? 2 * SIDE : most;
    int64_t panels = (m + most - 1) / most, pairs = (m + 2 * SIDE - 1) / (2 * SIDE);
    int64_t panel = (pairs + panels - 1) / panels * 2 * SIDE; /* rows */
    int64_t blocks = (n + WIDTH - 1) / WIDTH;
    int64_t sums = panel * WIDTH; /* of a block, a panel */
    job.rows = aligned_alloc(64, (size_t)(pairs * 2 * SIDE * job.bytes));
    float *all = aligned_alloc(64, sizeof(float) * (size_t)(part < inputs ? blocks * sums : SIDE));
    int32_t failed = !job.rows || !all;
#pragma omp parallel num_threads(threads)
    {
        char *own = aligned_alloc(64, PIECE * sizeof(uint16_t) * WIDTH);
        float *c = aligned_alloc(64, sizeof(float) * (size_t)sums);
        if (!own || !c) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        if (way == BY_TILES) begin_tiles();
#pragma omp for schedule(static)
        for (int64_t row = 0; row < (failed ? 0 : m); row += 2 * SIDE) {
            int64_t tiles = m - row > SIDE ? 2 : 1;
            if (way == BY_FLOAT)
                lay_float(x, m, width, row, tiles, inputs, (float *)(job.rows + row * job.bytes));
            else
                lay_bfloat16((const uint16_t *)x + row * width, width, m - row, width, tiles,
                             inputs / STEP, (uint16_t *)(job.rows + row * job.bytes));
        }
        for (int64_t row = 0; row < (failed ? 0 : m); row += panel)
            for (int64_t start = 0; start < inputs; start += part) {
                int64_t end = row + panel < m ? row + panel : m;
                int64_t stop = start + part < inputs ? start + part : inputs;
/* A thread has the same blocks each time, so none need wait until all panels are done. */
#pragma omp for schedule(static) nowait
                for (int64_t b = 0; b < blocks; b++) {
                    float *into = part < inputs ? all + b * sums : c;
                    multiply_block(&job, &weights, row, end, b * WIDTH, start, stop, own, into);
                    if (stop == inputs) store_block(&job, &weights, row, end, b * WIDTH, into);
                }
            }
        if (way == BY_TILES) end_tiles();
        settle_lines();
        free(own);
        free(c);
    }
    free(job.rows);
    free(all);
    return failed;
}

/* The best of the ways that this machine has. */
int32_t phisight_best_way(void) {
    return has_tiles() ? BY_TILES : has_bfloat16() ? BY_BFLOAT16 : BY_FLOAT;
}
