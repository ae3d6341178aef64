/* Attention of many queries, in tile registers; its definition is softmax(q k^T / sqrt(d)) v.
 *
 * Scores are computed with keys as rows and queries as lanes, so that the softmax never adds across
 * lanes, and what comes out lies as the next product wants it. Weights are bfloat16 below 1, sums
 * float32.
 *
 * Dimensions: t queries, s keys, d head size (a multiple of STEP).
 */
#include "tiles.h"

#define QUERIES (2 * SIDE) /* taken together */
#define KEYS 256 /* whose scores are held at once */
#define MOST 256 /* of d */
#define UNSEEN -1e30f /* the score of a key that a query does not see: no number is as low */

/* Numbers, not bytes. Of token i of head h of sequence b the queries begin at i * q_token + h *
 * q_head + b * q_batch; keys and values likewise; or, with a table of blocks, at table[i / block] *
 * block_stride + i % block * token + h * head. */
typedef struct {
    int64_t batch, heads, t, s, d, causal, q_batch, q_token, q_head, batch_stride, token, head, block,
        block_stride;
} Shape;

#if defined(AMX)
typedef struct {
    const Shape *shape;
    const uint16_t *q;
    uint16_t *keys, *values, *out; /* of one head; keys and values as tiles */
    int64_t steps; /* of STEP keys */
} Head;

static const uint16_t *token_at(const Shape *p, const uint16_t *x, const int64_t *table,
                                int64_t i) {
    return table ? x + table[i / p->block] * p->block_stride + i % p->block * p->token
                 : x + i * p->token;
}

/* Keys as [s / 32][d / 32][2][16 keys][32], values as [d / 32][s / 32][2][16 of d][32 keys]. */
BF16 static void lay_head(const Head *h, const uint16_t *k, const uint16_t *v,
                          const int64_t *table) {
    const Shape *p = h->shape;
    const __m512i first = _mm512_set_epi16(
        47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4,
        35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
    for (int64_t s = 0; s < h->steps; s++)
        for (int64_t c = 0; c < p->d; c += STEP) {
            __m512i low[SIDE], high[SIDE];
            uint16_t *keys = h->keys + (s * p->d + c) * 2 * SIDE;
            for (int64_t i = 0; i < 2 * SIDE; i += 2) {
                __m512i pair[2];
                for (int64_t j = 0; j < 2; j++) {
                    int64_t at = s * STEP + i + j;
                    int there = at < p->s;
                    const uint16_t *key = there ? token_at(p, k, table, at) + c : NULL;
                    const uint16_t *value = there ? token_at(p, v, table, at) + c : NULL;
                    _mm512_store_si512(keys + (i + j) * STEP, there ? _mm512_loadu_si512(key)
                                                                    : _mm512_setzero_si512());
                    pair[j] = there ? _mm512_loadu_si512(value) : _mm512_setzero_si512();
                }
                low[i / 2] = _mm512_permutex2var_epi16(pair[0], first, pair[1]);
                high[i / 2] = _mm512_permutex2var_epi16(pair[0], second, pair[1]);
            }
            transpose(low);
            transpose(high);
            uint16_t *values = h->values + (c * h->steps + s * STEP) * 2 * SIDE;
            for (int i = 0; i < SIDE; i++) {
                _mm512_store_si512(values + i * STEP, low[i]);
                _mm512_store_si512(values + TILE + i * STEP, high[i]);
            }
        }
}

/* Scores of `count` keys from `start` to weights, as tiles of 32 keys by 16 queries. `top`, of scores
 * as powers of two, and `total` are carried on; how much of what was summed before remains goes to
 * `kept`. */
BF16 static void weigh(const Shape *p, float *scores, int64_t first, int64_t start, int64_t count,
                       int64_t r, uint16_t *weights, __m512 *top, __m512 *total, __m512 *kept) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512 scale = _mm512_set1_ps(1.44269504f / __builtin_sqrtf((float)p->d));
    const __m512i halves = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9,
                                            24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1,
                                            16, 0);
    __m512i last = _mm512_set1_epi32((int32_t)p->s - 1); /* key that a query sees */
    if (p->causal)
        last = _mm512_min_epi32(
            last, _mm512_add_epi32(lanes, _mm512_set1_epi32((int32_t)(p->s - p->t + first +
                                                                      r * SIDE))));
    int all = start + count - 1 <= (p->causal ? p->s - p->t + first : p->s - 1);
    scores += r * SIDE * SIDE; /* tiles of 16 keys stand two apart */
    __m512 most[4]; /* of every fourth key: one would wait for the one before */
    for (int u = 0; u < 4; u++) most[u] = _mm512_set1_ps(UNSEEN);
    for (int64_t i = 0; i < count; i += SIDE)
        for (int j = 0; j < SIDE; j++) {
            float *at = scores + 2 * i * SIDE + j * SIDE;
            __m512 x = _mm512_load_ps(at);
            if (!all) {
                __m512i key = _mm512_set1_epi32((int32_t)(start + i + j));
                x = _mm512_mask_blend_ps(_mm512_cmple_epi32_mask(key, last),
                                         _mm512_set1_ps(UNSEEN), x);
                _mm512_store_ps(at, x);
            }
            most[j % 4] = _mm512_max_ps(most[j % 4], x);
        }
    __m512 highest = _mm512_max_ps(_mm512_max_ps(most[0], most[1]),
                                   _mm512_max_ps(most[2], most[3]));
    highest = _mm512_max_ps(*top, _mm512_mul_ps(highest, scale));
    *kept = power_of_two(_mm512_sub_ps(*top, highest));
    *top = highest;
    __m512 sum[2] = {_mm512_mul_ps(*total, *kept), _mm512_setzero_ps()};
    for (int64_t i = 0; i < count; i += SIDE)
        for (int j = 0; j < SIDE; j += 2) {
            const float *at = scores + 2 * i * SIDE + j * SIDE;
            __m512 pair[2];
            for (int u = 0; u < 2; u++) {
                __m512 x = _mm512_load_ps(at + u * SIDE);
                pair[u] = power_of_two(_mm512_fmsub_ps(x, scale, highest));
                sum[u] = _mm512_add_ps(sum[u], pair[u]);
            }
            __m512i both = (__m512i)_mm512_cvtne2ps_pbh(pair[1], pair[0]);
            uint16_t *to = weights + (i / STEP * 2 + r) * TILE + (i % STEP + j) * SIDE;
            _mm512_store_si512(to, _mm512_permutexvar_epi16(halves, both));
        }
    *total = _mm512_add_ps(sum[0], sum[1]);
}

/* Queries from `first` on. */
BF16 static void mix_queries(const Head *h, int64_t first) {
    const Shape *p = h->shape;
    float scores[KEYS * QUERIES] __attribute__((aligned(64)));
    float sums[MOST * QUERIES] __attribute__((aligned(64)));
    uint16_t weights[KEYS * QUERIES] __attribute__((aligned(64)));
    uint16_t queries[MOST * QUERIES] __attribute__((aligned(64)));
    lay_bfloat16(h->q + first * p->q_token, p->q_token, p->t - first, p->d, 2, p->d / STEP, queries);
    __m512 top[2], total[2], kept[2];
    for (int r = 0; r < 2; r++) {
        top[r] = _mm512_set1_ps(UNSEEN);
        total[r] = _mm512_setzero_ps();
    }
    int64_t end = p->causal && p->s - p->t + first + QUERIES < p->s ?
        p->s - p->t + first + QUERIES : p->s;
    for (int64_t start = 0; start < end; start += KEYS) {
        int64_t count = end - start < KEYS ? (end - start + STEP - 1) / STEP * STEP : KEYS;
        for (int64_t i = 0; i < count; i += STEP)
            multiply_tiles(h->keys + (start + i) * p->d, queries, 2, p->d / STEP, 1,
                           scores + i * QUERIES);
        for (int r = 0; r < 2; r++) {
            weigh(p, scores, first, start, count, r, weights, top + r, total + r, kept + r);
            for (int64_t i = 0; start && i < p->d; i++) {
                float *at = sums + i / SIDE * 2 * SIDE * SIDE + r * SIDE * SIDE + i % SIDE * SIDE;
                _mm512_store_ps(at, _mm512_mul_ps(_mm512_load_ps(at), kept[r]));
            }
        }
        for (int64_t c = 0; c < p->d; c += STEP)
            multiply_tiles(h->values + (c * h->steps + start) * 2 * SIDE, weights, 2, count / STEP,
                           start == 0, sums + c * QUERIES);
    }
    for (int r = 0; r < 2; r++)
        for (int64_t c = 0; c < p->d; c += SIDE) {
            __m512i v[SIDE];
            const float *from = sums + (c / SIDE * 2 + r) * SIDE * SIDE;
            for (int i = 0; i < SIDE; i++)
                v[i] = _mm512_castps_si512(
                    _mm512_div_ps(_mm512_load_ps(from + i * SIDE), total[r]));
            transpose(v);
            for (int64_t i = 0; i < SIDE && first + r * SIDE + i < p->t; i++)
                _mm256_storeu_si256(
                    (__m256i *)(h->out + (first + r * SIDE + i) * p->heads * p->d + c),
                    (__m256i)_mm512_cvtneps_pbh(_mm512_castsi512_ps(v[i])));
        }
}

/* Queries, keys and values bfloat16 as `shape` says, `table` of blocks or null, to (batch, t,
 * heads, d); causal: the last query is the last key's. 0, or 1 without memory. */
int32_t phisight_mix(const uint16_t *q, const uint16_t *k, const uint16_t *v, const int64_t *table,
                     uint16_t *out, const Shape *shape, int32_t threads) {
    Shape p = *shape;
    int64_t steps = (p.s + STEP - 1) / STEP;
    int32_t failed = 0;
#pragma omp parallel num_threads(threads)
    {
        Head own = {&p, q, NULL, NULL, NULL, steps};
        own.keys = aligned_alloc(64, (size_t)(2 * steps * STEP * p.d));
        own.values = aligned_alloc(64, (size_t)(2 * steps * STEP * p.d));
        int whole = own.keys && own.values;
        if (!whole) {
#pragma omp atomic write
            failed = 1;
        }
        begin_tiles();
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < p.batch * p.heads; i++) {
            int64_t b = i / p.heads, head = i % p.heads, at = b * p.batch_stride + head * p.head;
            own.q = q + b * p.q_batch + head * p.q_head;
            own.out = out + b * p.t * p.heads * p.d + head * p.d;
            if (whole) lay_head(&own, k + at, v + at, table);
            for (int64_t first = 0; whole && first < p.t; first += QUERIES)
                mix_queries(&own, first);
        }
        end_tiles();
        free(own.keys);
        free(own.values);
    }
    return failed;
}
#else
int32_t phisight_mix(const uint16_t *q, const uint16_t *k, const uint16_t *v, const int64_t *table,
                     uint16_t *out, const Shape *shape, int32_t threads) {
    abort(); /* phisight_best_way says no */
}
#endif
