/* Attention of one query a sequence over keys and values where they lie; its definition is
 * `phisight.kernels.paged.attend_pages_gathered`. In float32 throughout.
 *
 * Dimensions: s sequences, h heads, d head size (a multiple of LANES), blocks of b tokens.
 */
#include <math.h>

#include "wide.h"

#define MOST 256 /* of d */
#define AHEAD 32 /* tokens: a block is too short for the processor to see where it goes on */

INLINE const uint16_t *at(const uint16_t *store, const int64_t *blocks, int64_t t, int64_t stride,
                          int64_t d, int64_t b) {
    return store + blocks[t / b] * stride + t % b * d;
}

INLINE void fetch(const uint16_t *from, int64_t d) {
    for (int64_t i = 0; i < d; i += 32) __builtin_prefetch(from + i);
}

/* One head of one sequence; `scores` has room for its tokens. */
CLONED static void attend_head(const float *q, const uint16_t *keys, const uint16_t *values,
                               const int64_t *blocks, int64_t stored, float *scores, float *out,
                               int64_t h, int64_t d, int64_t b) {
    int64_t stride = h * b * d;
    float top = -INFINITY, total = 0;
    for (int64_t t = 0; t < stored; t++) {
        const uint16_t *key = at(keys, blocks, t, stride, d, b);
        if (t + AHEAD < stored) fetch(at(keys, blocks, t + AHEAD, stride, d, b), d);
        Wide sum[2] = {{0}, {0}};
        for (int64_t i = 0; i < d / LANES; i++)
            sum[i & 1] += WIDENED(key + i * LANES) * LOAD(Wide, q + i * LANES);
        scores[t] = SUM(sum[0] + sum[1]);
        top = scores[t] > top ? scores[t] : top;
    }
    for (int64_t t = 0; t < stored; t++) total += scores[t] = expf(scores[t] - top);
    Wide mixed[MOST / LANES];
    for (int64_t i = 0; i < d / LANES; i++) mixed[i] = (Wide){0};
    for (int64_t t = 0; t < stored; t++) {
        const uint16_t *value = at(values, blocks, t, stride, d, b);
        if (t + AHEAD < stored) fetch(at(values, blocks, t + AHEAD, stride, d, b), d);
        for (int64_t i = 0; i < d / LANES; i++)
            mixed[i] += WIDENED(value + i * LANES) * scores[t];
    }
    for (int64_t i = 0; i < d / LANES; i++) {
        Wide one = mixed[i] / total;
        memcpy(out + i * LANES, &one, sizeof one);
    }
}

/* q (s, h, d) scaled, keys and values (blocks, h, b, d) bfloat16, table (s, width); 0, or 1 without
 * memory. */
int32_t phisight_attend(const float *q, const uint16_t *keys, const uint16_t *values,
                        const int64_t *table, const int64_t *stored, float *out, int64_t s,
                        int64_t h, int64_t d, int64_t b, int64_t width, int32_t threads) {
    int64_t most = 0;
    int32_t failed = 0;
    for (int64_t i = 0; i < s; i++) most = stored[i] > most ? stored[i] : most;
#pragma omp parallel num_threads(threads)
    {
        float *scores = malloc(sizeof(float) * (size_t)(most ? most : 1));
        if (!scores) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < s * h; i++) {
            if (!scores) continue;
            int64_t head = i % h, sequence = i / h, skip = head * b * d;
            attend_head(q + i * d, keys + skip, values + skip, table + sequence * width,
                        stored[sequence], scores, out + i * d, h, d, b);
        }
        free(scores);
    }
    return failed;
}
