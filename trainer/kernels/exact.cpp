// Pairs with negatives of their own, for one core. DIMENSION and NEGATIVES, of a pair, are macros (see build.py). The twin: trainer/objective/exact.py.

#include <cstdint>
#include <cstring>

#include "scores.h"

namespace {

constexpr int BATCH = 16;                              // pairs that are scored together
constexpr int DRAWN = BATCH * NEGATIVES;

struct Buffers {
    alignas(64) float a[BATCH * D], b[BATCH * D], z[DRAWN * D];
    alignas(64) float pull[padded(BATCH)], push[padded(DRAWN)];
    alignas(64) float one[padded(BATCH)], times[padded(DRAWN)];
};

inline void add_scaled(float* to, float factor, const float* from) {
    for (int k = 0; k < DIMENSION; ++k) to[k] += factor * from[k];
}

void ask_for(const float* values, const int64_t* rows, int count) {
    for (int i = 0; i < count; ++i) fetch<DIMENSION>(values + rows[i] * DIMENSION);
}

}  // namespace

extern "C" {

// Loss of pairs; adds scale * its gradient to `gradient`. Scores are t (a . b) + b; `printed`: the loss of eq. 4 as printed.
// centres, contexts: [pairs], negatives: [pairs, NEGATIVES] rows of `vectors`; counts: [pairs, NEGATIVES] 1 where the negative counts, else 0.
// by_t and by_b become scale * the gradients of t and b.
double exact(const float* vectors, float* gradient, const int64_t* centres, const int64_t* contexts, const int64_t* negatives,
             const uint8_t* counts, int64_t pairs, float scale, float t, float b, int printed, float* by_t, float* by_b) {
    static thread_local Buffers x;
    memset(&x, 0, sizeof x);
    const Head head{t, b, false, printed != 0};
    Sums sums{};
    for (int64_t first = 0; first < pairs; first += BATCH) {
        const int count = pairs - first < BATCH ? pairs - first : BATCH, drawn = count * NEGATIVES;
        const int64_t *of_a = centres + first, *of_b = contexts + first, *of_z = negatives + first * NEGATIVES;
        gather(x.a, vectors, of_a, count);
        gather(x.b, vectors, of_b, count);
        gather(x.z, vectors, of_z, drawn);
        ask_for(gradient, of_a, count);
        ask_for(gradient, of_b, count);
        ask_for(gradient, of_z, drawn);
        for (int i = 0; i < BATCH; ++i) x.one[i] = i < count;
        for (int j = 0; j < DRAWN; ++j) x.times[j] = j < drawn ? counts[first * NEGATIVES + j] : 0;
        for (int i = 0; i < count; ++i) {
            x.pull[i] = dot(x.a + i * D, x.b + i * D);
            for (int j = i * NEGATIVES; j < (i + 1) * NEGATIVES; ++j) x.push[j] = dot(x.a + i * D, x.z + j * D);
        }
        lose(x.pull, x.one, padded(BATCH), -1, scale, head, sums);
        lose(x.push, x.times, padded(DRAWN), 1, scale, head, sums);
        for (int i = 0; i < count; ++i) {
            alignas(64) float by_a[D] = {};
            add_scaled(by_a, x.pull[i], x.b + i * D);
            add_scaled(gradient + of_b[i] * DIMENSION, x.pull[i], x.a + i * D);
            for (int j = i * NEGATIVES; j < (i + 1) * NEGATIVES; ++j) {
                add_scaled(by_a, x.push[j], x.z + j * D);
                add_scaled(gradient + of_z[j] * DIMENSION, x.push[j], x.a + i * D);
            }
            add_scaled(gradient + of_a[i] * DIMENSION, 1, by_a);
        }
    }
    *by_t = sums.t;
    *by_b = sums.b;
    return sums.loss;
}

}
