// What the kernels of chunks share: products of small matrices, the logistic function, and rows of the tables. DIMENSION is a macro.
//
// Matrices of a chunk lie in buffers whose rows are padded with zeros to whole vectors of LANES floats.

#pragma once

#include <cstdint>
#include <cstring>

#include "vector.h"

namespace {

constexpr int ROWS = 4;                                // rows of a product that are formed together, in registers
constexpr int D = padded(DIMENSION);

constexpr int whole_rows(int n) { return (n + ROWS - 1) / ROWS * ROWS; }

// c[r][0..width) (+)= sum over k of a[r * row + k * column] * b[k], for ROWS rows.
template <int width, bool add>
inline void product(const float* a, long row, long column, const float* b, long stride, int terms, float* c, long c_stride) {
    constexpr int vectors = width / LANES;
    Vector sum[ROWS][vectors];
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < vectors; ++v) sum[r][v] = add ? *(const Vector*)(c + r * c_stride + v * LANES) : Vector{};
    for (int k = 0; k < terms; ++k) {
        for (int v = 0; v < vectors; ++v) {
            const Vector right = *(const Vector*)(b + k * stride + v * LANES);
            for (int r = 0; r < ROWS; ++r) sum[r][v] += a[r * row + k * column] * right;
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < vectors; ++v) *(Vector*)(c + r * c_stride + v * LANES) = sum[r][v];
}

inline Vector absolute(Vector x) { return (Vector)((Integers)x & 0x7fffffff); }

// exp(-x) for x >= 0, to 1e-7; not a number stays so only in what the caller makes of x itself.
inline Vector decay(Vector x) {
    x = x < 87.0f ? x : Vector{} + 87.0f;
    const Vector t = x * -1.44269504f;
    const Vector shifted = t + 12582912.0f;            // 1.5 * 2^23: rounds to a whole number
    const Vector whole = shifted - 12582912.0f;
    const Vector f = (t - whole) * 0.69314718f;
    Vector p = f * (1.0f / 720) + (1.0f / 120);
    p = p * f + (1.0f / 24);
    p = p * f + (1.0f / 6);
    p = p * f + 0.5f;
    p = p * f + 1.0f;
    p = p * f + 1.0f;
    const Integers power = (Integers)shifted - 0x4b400000;
    return (Vector)((Integers)p + (power << 23));
}

struct Logistic { Vector slope, loss; };

// slope = sigmoid(x), loss = log(1 + exp(x)).
inline Logistic logistic(Vector x) {
    const Vector size = absolute(x), e = decay(size), part = 1.0f / (1.0f + e);
    const Vector slope = x >= 0.0f ? part : e * part;
    // log(1 + e) = 2 atanh(z), z = e / (2 + e) <= 1/3
    const Vector z = e / (2.0f + e), q = z * z;
    Vector s = q * (1.0f / 13) + (1.0f / 11);
    s = s * q + (1.0f / 9);
    s = s * q + (1.0f / 7);
    s = s * q + (1.0f / 5);
    s = s * q + (1.0f / 3);
    s = s * q + 1.0f;
    return {slope, 0.5f * (x + size) + 2.0f * z * s};
}

inline void gather(float* to, const float* vectors, const int64_t* rows, int count) {
    for (int i = 0; i < count && i < AHEAD; ++i) fetch<DIMENSION>(vectors + rows[i] * DIMENSION);
    for (int i = 0; i < count; ++i) {
        if (i + AHEAD < count) fetch<DIMENSION>(vectors + rows[i + AHEAD] * DIMENSION);
        memcpy(to + i * D, vectors + rows[i] * DIMENSION, DIMENSION * sizeof(float));
    }
}

inline void scatter(float* gradient, const int64_t* rows, int count, const float* from) {
    for (int i = 0; i < count; ++i) {
        if (i + AHEAD < count) fetch<DIMENSION>(gradient + rows[i + AHEAD] * DIMENSION);
        float* to = gradient + rows[i] * DIMENSION;
        for (int k = 0; k < DIMENSION; ++k) to[k] += from[i * D + k];
    }
}

}  // namespace
