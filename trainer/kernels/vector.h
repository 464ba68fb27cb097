// Vectors of floats as GCC and Clang know them, on any processor: 16 at a time, in as many registers as that takes.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

constexpr int LANES = 16;
typedef float Vector __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(64), aligned(4), may_alias));

constexpr int padded(int n) { return (n + LANES - 1) / LANES * LANES; }

// The sum of all lanes, by halves: additions that need not wait for each other.
inline float total(Vector x) {
    float parts[LANES];
    memcpy(parts, &x, sizeof parts);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
    return parts[0];
}

constexpr int LINE = 64;                               // bytes that come from memory together
constexpr int AHEAD = 8;                               // rows asked for before they are needed

// Asks for a row of `count` floats, to write them: which takes them away from the other cores.
template <int count, bool write = true>
inline void fetch(const float* row) {
    for (int k = 0; k < count; k += LINE / 4) __builtin_prefetch(row + k, write);
}

}  // namespace
