// Work on rows of the tables, for one core. DIMENSION is a macro (see build.py). The twins in PyTorch: trainer/embeddings/tables.py, trainer/embeddings/optimisers.py.

#include <cmath>
#include <cstdint>

#include "vector.h"

namespace {

inline float square_norm(const float* row) {
    Vector parts{};
    int k = 0;
    for (; k + LANES <= DIMENSION; k += LANES) {
        const Vector part = *(const Vector*)(row + k);
        parts += part * part;
    }
    float sum = total(parts);
    for (; k < DIMENSION; ++k) sum += row[k] * row[k];
    return sum;
}

}  // namespace

extern "C" {

// Rows rows[i] of `values`, one after the other.
void read(const float* values, const int64_t* rows, int64_t count, float* vectors) {
    for (int64_t i = 0; i < count; ++i) {
        if (i + AHEAD < count) fetch<DIMENSION, false>(values + rows[i + AHEAD] * DIMENSION);
        memcpy(vectors + i * DIMENSION, values + rows[i] * DIMENSION, DIMENSION * sizeof(float));
    }
}

// Row-wise Adagrad: row rows[i] of `values`, of which each begins `stride` rows after the one before, moves against gradient[i] * shrink.
void adagrad(float* values, float* square_sum, const int64_t* rows, const float* gradient, int64_t count, int64_t stride,
             float shrink, float rate, float epsilon) {
    for (int64_t i = 0; i < count; ++i) {
        if (i + AHEAD < count) {
            fetch<DIMENSION>(values + rows[i + AHEAD] * stride * DIMENSION);
            __builtin_prefetch(square_sum + rows[i + AHEAD], 1);
        }
        const float* const from = gradient + i * DIMENSION;
        float& sum = square_sum[rows[i]];
        sum += square_norm(from) * shrink * shrink / DIMENSION;
        const float move = rate * shrink / (std::sqrt(sum) + epsilon);
        float* const to = values + rows[i] * stride * DIMENSION;
        for (int k = 0; k < DIMENSION; ++k) to[k] -= move * from[k];
    }
}

}
