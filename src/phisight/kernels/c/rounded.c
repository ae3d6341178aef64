/* Linear layers whose inputs are rounded to 8 bits, a factor for each span of a row, over weights
 * of 4, 7 or 8 bits; `phisight.kernels.rounded` is their definition. By blocks, as in rows.c.
 *
 * Dimensions: m rows of x, n outputs, k inputs (padded with zeros to whole groups).
 */
#include "round.h"
#include "strip.h"

#define CACHED (1024 << 10) /* bytes of rows that stay in a core's second cache */
#define PIECE SPAN /* inputs whose weights, of WIDTH outputs, stay in its first */

typedef struct {
    int32_t way, kind, narrow, gelu, past; /* the caches, to y */
    int64_t m, n, width, inputs, span, spans, one; /* bytes of a result */
    const void *x;
    int8_t *rows; /* as tiles, pair of tiles by pair */
    float *factors, *totals; /* pair by pair, [spans][tiles * 16] */
    const float *bias;
    void *y;
} Job;

/* Inputs `start` to `stop` of outputs from `first`, of 4 or 8 bits, as bytes.h wants them. */
CLONED static void unpack_bytes(const Weights *w, int64_t first, int64_t start, int64_t stop,
                                uint8_t *to, float *scale, float *low) {
    int64_t groups = (w->k + GROUP - 1) / GROUP;
    for (int64_t j = 0; j < WIDTH; j++) {
        int64_t row = first + j;
        uint8_t *out = to + j / SIDE * SQUARE + j % SIDE * FOURS;
        const char *codes;
        for (int64_t i = start; i < stop; i += GROUP, out += 4 * SQUARE) {
            float by = 0, under = 0;
            int64_t into = (i - start) / GROUP * WIDTH + j;
            uint8_t bytes[GROUP] = {0};
            if (row < w->n && w->kind == INT4) {
                int64_t at = row * groups + i / GROUP;
                by = widened(w->scales[at]), under = widened(w->offsets[at]) - 8 * by;
                codes = (const char *)w->codes + at * GROUP / 2;
                __builtin_prefetch(codes + PIECE / 2);
                for (size_t c = 0; c < FOURS; c += sizeof(Words)) {
                    Words q = LOAD(Words, codes + c), odd = q >> 4 & 0x0F0F0F0F;
                    q &= 0x0F0F0F0F;
                    memcpy(bytes + c, &q, sizeof q);
                    memcpy(bytes + FOURS + c, &odd, sizeof odd);
                }
            } else if (row < w->n) {
                int64_t left = w->k - i;
                by = widened(w->scales[row]), under = -128 * by;
                codes = (const char *)w->codes + row * w->k + i;
                __builtin_prefetch(codes + PIECE);
                memcpy(bytes, codes, left < GROUP ? (size_t)left : GROUP);
                for (int c = 0; c < GROUP; c++) bytes[c] ^= 0x80;
            }
            memcpy(out, bytes, FOURS);
            memcpy(out + 2 * SQUARE, bytes + FOURS, FOURS);
            scale[into] = by, low[into] = under;
        }
    }
}

/* Those of 7 bits lie as they are wanted. */
static const uint8_t *blocks_of(const Weights *w, int64_t first, int64_t start, float *scale,
                                float *low) {
    int64_t spans = (w->k + SPAN - 1) / SPAN;
    for (int64_t j = 0; j < WIDTH; j++) {
        int64_t at = (first + j) * spans + start / SPAN;
        float by = first + j < w->n ? widened(w->scales[at]) : 0;
        scale[j] = by;
        low[j] = first + j < w->n ? widened(w->offsets[at]) - 64 * by : 0;
    }
    return (const uint8_t *)w->codes + first * w->k + start * WIDTH;
}

/* A pair of tiles of rows from `first`; `own` has room for one. */
static void lay_rows(const Job *job, int64_t first, int8_t *own) {
    int64_t left = job->m - first, inputs = job->inputs, tiles = left > SIDE ? 2 : 1;
    int64_t count = left < 2 * SIDE ? left : 2 * SIDE, skip = first * job->spans;
    float *factors = job->factors + skip, *totals = job->totals + skip;
    memset(factors, 0, sizeof(float) * (size_t)(job->spans * tiles * SIDE));
    memset(totals, 0, sizeof(float) * (size_t)(job->spans * tiles * SIDE));
    for (int64_t i = 0; i < count; i++) {
        const void *row = row_at(job->x, job->narrow, (first + i) * job->width);
        int8_t *to = own + i * inputs;
        if (job->narrow && job->way >= BY_WIDE_FOURS)
            round_narrow(row, job->width, job->kind, to, factors + i, totals + i, tiles * SIDE);
        else
            round_row(row, job->narrow, job->width, job->kind, 8, to, factors + i, totals + i,
                      tiles * SIDE);
    }
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

/* A tile of sums to the strip `y`, which has room for whole tiles. */
static void store_tile(const Job *job, const float *c, int64_t output, char *y) {
    float bias[SIDE] = {0};
    for (int64_t o = 0; job->bias && o < SIDE && output + o < job->n; o++)
        bias[o] = job->bias[output + o];
    if (job->narrow && job->way >= BY_WIDE_FOURS) {
        store_narrow(c, bias, job->gelu, (uint16_t *)y);
        return;
    }
    for (int64_t r = 0; r < SIDE; r++)
        for (int64_t o = 0; o < SIDE; o++) {
            float one = c[o * SIDE + r] + bias[o];
            if (job->narrow)
                ((uint16_t *)y)[r * STRIP + o] = narrowed(one);
            else
                ((float *)y)[r * STRIP + o] = one;
        }
}

/* Sums `c` of a pair of tiles of rows from `row`, of WIDTH outputs from `first`, to a strip. */
static void store_pair(const Job *job, int64_t row, int64_t first, const float *c, char *strip) {
    int64_t tiles = job->m - row > SIDE ? 2 : 1;
    for (int64_t o = 0; o < WIDTH && first + o < job->n; o += SIDE)
        for (int64_t r = 0; r < tiles; r++)
            store_tile(job, c + (o / SIDE * tiles + r) * CELLS, first + o,
                       strip + (r * SIDE * STRIP + o) * job->one);
}

/* Rows `row` to `end` of STRIP outputs from `first`; `own` holds a piece of weights, `c` the sums,
 * `strip` what goes to y. Each pair of tiles goes there as soon as it is complete, so that memory is
 * written while the next is multiplied. */
static void multiply_strip(const Job *job, const Weights *w, int64_t row, int64_t end,
                           int64_t first, uint8_t *own, float *c, char *strip) {
    float scale[PIECE / GROUP * WIDTH], low[PIECE / GROUP * WIDTH];
    int64_t left = job->n - first, count = left < STRIP ? left : STRIP;
    for (int64_t o = 0; o < count; o += WIDTH)
        for (int64_t start = 0; start < job->inputs; start += PIECE) {
            int64_t stop = start + PIECE < job->inputs ? start + PIECE : job->inputs;
            const uint8_t *laid = own;
            if (w->kind == INT7)
                laid = blocks_of(w, first + o, start, scale, low);
            else
                unpack_bytes(w, first + o, start, stop, own, scale, low);
            for (int64_t r = row; r < end; r += 2 * SIDE) {
                int64_t tiles = job->m - r > SIDE ? 2 : 1;
                int64_t skip = r * job->spans + start / job->span * tiles * SIDE;
                float *sums = c + (r - row) * WIDTH;
                char *put = strip + (r - row) * STRIP * job->one;
                Block block = {laid, scale, low, job->rows + r * job->inputs + start * tiles * SIDE,
                               job->factors + skip, job->totals + skip, tiles,
                               (stop - start) / FOURS, job->span / FOURS, start == 0,
                               w->kind == INT4, sums};
                multiply_bytes(job->way, &block);
                if (stop < job->inputs) continue;
                store_pair(job, r, first + o, sums, put + o * job->one);
                for (int64_t i = r; o + WIDTH >= count && i < end && i < r + 2 * SIDE; i++)
                    put_line((char *)job->y + (i * job->n + first) * job->one,
                             put + (i - r) * STRIP * job->one, count * job->one, job->past);
            }
        }
}

INLINE int64_t whole_pairs(int64_t m) { return (m + 2 * SIDE - 1) / (2 * SIDE) * (2 * SIDE); }

/* Bytes that phisight_rounded needs to work in. */
int64_t phisight_rounded_room(int64_t m, int64_t width, int32_t kind) {
    int64_t span = span_of(kind), spans = (width + span - 1) / span;
    int64_t inputs = (width + GROUP - 1) / GROUP * GROUP;
    return whole_pairs(m) * (inputs + 2 * spans * (int64_t)sizeof(float));
}

/* x (m, width) to y (m, n), both bfloat16 if `narrow`, else float32. codes (n, ...) as `kind` says,
 * those of 7 bits as bytes.h wants them; scales and offsets bfloat16, no offsets of 8 bits; a bias
 * (n) or none; `room` as large as phisight_rounded_room says, on 64 bytes; y through CLIP's
 * activation if `gelu`, where it is bfloat16 and `way` BY_WIDE_FOURS or better. 0, or 1 without
 * memory. */
int32_t phisight_rounded(const void *x, const void *codes, const uint16_t *scales,
                         const uint16_t *offsets, const float *bias, void *y, int64_t m,
                         int64_t width, int64_t n, void *room, int32_t kind, int32_t narrow,
                         int32_t gelu, int32_t way, int32_t threads) {
    int64_t span = span_of(kind), spans = (width + span - 1) / span;
    int64_t inputs = (width + GROUP - 1) / GROUP * GROUP;
    int64_t padded = whole_pairs(m), pairs = padded / (2 * SIDE);
    Weights weights = {kind, codes, scales, offsets, n, kind == INT8 ? width : inputs};
    Job job = {way, kind, narrow, gelu, 0, m, n, width, inputs, span, spans, narrow ? 2 : 4, x, NULL, NULL,
               NULL, bias, y};
    job.past = goes_past(y, m, n * job.one);
    int64_t most = CACHED / inputs / (2 * SIDE) * (2 * SIDE);
    most = most < 2 * SIDE ? 2 * SIDE : most;
    int64_t panels = (m + most - 1) / most;
    int64_t panel = panels ? (pairs + panels - 1) / panels * 2 * SIDE : 2 * SIDE; /* rows */
    job.rows = room;
    job.factors = (float *)(job.rows + padded * inputs);
    job.totals = job.factors + padded * spans;
    int32_t failed = 0;
#pragma omp parallel num_threads(threads)
    {
        uint8_t *own = aligned_alloc(64, PIECE * WIDTH);
        int8_t *laid = aligned_alloc(64, (size_t)(2 * SIDE * inputs));
        float *c = aligned_alloc(64, sizeof(float) * (size_t)(panel * WIDTH));
        char *strip = aligned_alloc(64, (size_t)(panel * STRIP * job.one));
        if (!own || !laid || !c || !strip) {
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
            for (int64_t first = 0; first < n; first += STRIP)
                multiply_strip(&job, &weights, row, row + panel < m ? row + panel : m, first, own,
                               c, strip);
        if (way == BY_BYTE_TILES) end_tiles();
        settle_lines();
        free(own);
        free(laid);
        free(c);
        free(strip);
    }
    return failed;
}

/* The best of the ways to multiply bytes that this machine has. */
int32_t phisight_best_bytes(void) {
    int32_t way = BY_BYTE_TILES;
    while (!has_bytes(way)) way--;
    return way;
}

int32_t phisight_has_bytes(int32_t way) { return has_bytes(way); }
