// What the kernels of pairs share: scores of vectors by their dot products, and the loss of those scores, by skip-gram or by a relation.

#pragma once

#include "chunk.h"

namespace {

// A score is t (a . b) + b; `printed`: the loss is eq. 4 as printed.
struct Head { float t, b; bool relational, printed; };

struct Sums { double loss, t, b; };

inline float dot(const float* a, const float* b) {
    Vector sum{};
    for (int k = 0; k < D; k += LANES) sum += *(const Vector*)(a + k) * *(const Vector*)(b + k);
    return total(sum);
}

// Scores become scale * the slope of the loss by them, each counted as often as `times` says; sign: -1 for contexts, 1 for negatives.
inline void lose(float* score, const float* times, int count, float sign, float scale, const Head& head, Sums& sums) {
    Vector loss{}, t{}, b{};
    for (int v = 0; v < count; v += LANES) {
        const Vector x = *(const Vector*)(score + v), w = *(const Vector*)(times + v);
        if (head.printed) {
            loss += sign * x * w;
            *(Vector*)(score + v) = sign * scale * w;
            continue;
        }
        const Logistic l = logistic(sign * (head.t * x + head.b));
        const Vector slope = sign * scale * l.slope * w;
        loss += l.loss * w;
        t += slope * x;
        b += slope;
        *(Vector*)(score + v) = slope * head.t;
    }
    sums.loss += total(loss);
    sums.t += total(t);
    sums.b += total(b);
}

}  // namespace
