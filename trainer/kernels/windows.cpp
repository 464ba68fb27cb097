// Skip-gram over sequences with negatives drawn for each chunk, for one core: loss and gradient in one pass over a chunk, whose vectors stay
// in the core's cache. DIMENSION, CHUNK, NEGATIVES and WINDOW are macros (see build.py). The twin in PyTorch: trainer/objective/fast_windows.py.
//
// The scores of contexts are formed for the window alone, a band of the matrix of all centres with all contexts: `pull` holds it by diagonals.

#include <cstdint>
#include <cstring>

#include "chunk.h"

namespace {

constexpr int N = padded(NEGATIVES);
constexpr int T = whole_rows(CHUNK);
constexpr int H = T + 2 * WINDOW;                      // a chunk's positions with those around it
constexpr int SEEN = 2 * WINDOW + 1;                   // positions that a centre sees, itself included
constexpr int BLOCK = padded(SEEN + ROWS - 1);         // columns of the scores of ROWS centres
constexpr int COLUMNS = T - ROWS + BLOCK;              // of all contexts, the last block's columns included
constexpr int MARGIN = ROWS - 1;
constexpr int DIAGONAL = SEEN + 2 * MARGIN;

struct Buffers {
    alignas(64) float a[T * D];                         // centres
    alignas(64) float b[(H + BLOCK) * D];               // contexts, with the halo
    alignas(64) float bt[D * COLUMNS];                  // the same, transposed
    alignas(64) float z[N * D], zt[D * N];              // negatives
    alignas(64) float push[T * N];                      // slopes by the scores of negatives
    alignas(64) float pull[(T + 2 * (SEEN + ROWS)) * DIAGONAL];  // by those of contexts: [centre][MARGIN + distance + WINDOW]
    alignas(64) float ga[T * D], gb[(H + ROWS) * D], gz[N * D];
    alignas(64) float degree[T];
    uint64_t equal[H];
};

}  // namespace

extern "C" {

// Loss of chunks of sequences; adds scale * its gradient to `gradient`.
// centres, contexts: [chunks * CHUNK] rows of `vectors`; sequence: [chunks * CHUNK], below 0 for padding; negatives: [chunks, NEGATIVES].
double windows(const float* vectors, float* gradient, const int64_t* centres, const int64_t* contexts, const int64_t* sequence,
               const int64_t* negatives, int64_t chunks, int64_t padding, float weight, float scale) {
    static thread_local Buffers x;
    memset(&x, 0, sizeof x);
    float* const pull = x.pull + (SEEN + ROWS) * DIAGONAL;
    const int64_t places = chunks * CHUNK;
    double loss = 0;
    int64_t rows[H];
    int64_t group[H];
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t first = chunk * CHUNK;
        for (int h = 0; h < CHUNK + 2 * WINDOW; ++h) {
            const int64_t at = first + h - WINDOW;
            const bool inside = at >= 0 && at < places;
            rows[h] = inside ? contexts[at] : padding;
            group[h] = inside && sequence[at] >= 0 ? sequence[at] : -2;
        }
        const int64_t* drawn = negatives + chunk * NEGATIVES;
        gather(x.a, vectors, centres + first, CHUNK);
        gather(x.b, vectors, rows, CHUNK + 2 * WINDOW);
        gather(x.z, vectors, drawn, NEGATIVES);
        for (int h = 0; h < CHUNK + 2 * WINDOW; ++h)
            for (int k = 0; k < DIMENSION; ++k) x.bt[k * COLUMNS + h] = x.b[h * D + k];
        for (int n = 0; n < NEGATIVES; ++n)
            for (int k = 0; k < DIMENSION; ++k) x.zt[k * N + n] = x.z[n * D + k];

        // Contexts: scores of ROWS centres at a time with all that one of them sees.
        for (int i = 0; i < T; i += ROWS) {
            alignas(64) float score[ROWS * BLOCK];
            product<BLOCK, false>(x.a + i * D, D, 1, x.bt + i, COLUMNS, DIMENSION, score, BLOCK);
            for (int r = 0; r < ROWS; ++r) {
                const int64_t own = i + r < CHUNK && sequence[first + i + r] >= 0 ? sequence[first + i + r] : -1;
                alignas(64) float mask[BLOCK] = {};
                float degree = 0;
                for (int j = r; j < r + SEEN; ++j) {
                    const bool seen = i + j < CHUNK + 2 * WINDOW && group[i + j] == own && j != r + WINDOW;
                    mask[j] = seen;
                    degree += seen;
                }
                x.degree[i + r] = degree;
                Vector sum{};
                for (int v = 0; v < BLOCK; v += LANES) {
                    const Vector m = *(const Vector*)(mask + v);
                    const Logistic l = logistic(-*(const Vector*)(score + r * BLOCK + v));
                    sum += l.loss * m;
                    *(Vector*)(score + r * BLOCK + v) = l.slope * m * -scale;
                }
                loss += total(sum);
                memcpy(pull + (i + r) * DIAGONAL + MARGIN, score + r * BLOCK + r, SEEN * sizeof(float));
            }
        }
        // Negatives.
        for (int i = 0; i < T; i += ROWS) product<N, false>(x.a + i * D, D, 1, x.zt, N, DIMENSION, x.push + i * N, N);
        for (int h = 0; h < CHUNK + 2 * WINDOW; ++h) {
            uint64_t any = 0;
            for (int n = 0; n < NEGATIVES; ++n) any |= rows[h] == drawn[n];
            x.equal[h] = any;
        }
        for (int i = 0; i < CHUNK; ++i) {
            alignas(64) float weights[N];
            for (int n = 0; n < N; ++n) weights[n] = n < NEGATIVES ? x.degree[i] * weight : 0.0f;
            for (int j = 0; j < SEEN; ++j)
                if (x.equal[i + j] && j != WINDOW && group[i + j] == sequence[first + i])
                    for (int n = 0; n < NEGATIVES; ++n)
                        if (rows[i + j] == drawn[n]) weights[n] -= weight;
            Vector sum{};
            for (int v = 0; v < N; v += LANES) {
                const Vector w = *(const Vector*)(weights + v);
                const Logistic l = logistic(*(const Vector*)(x.push + i * N + v));
                sum += l.loss * w;
                *(Vector*)(x.push + i * N + v) = l.slope * w * scale;
            }
            loss += total(sum);
        }
        // Gradients.
        for (int i = 0; i < T; i += ROWS) {
            product<D, false>(pull + i * DIAGONAL + MARGIN, DIAGONAL - 1, 1, x.b + i * D, D, SEEN + ROWS - 1, x.ga + i * D, D);
            product<D, true>(x.push + i * N, N, 1, x.z, D, NEGATIVES, x.ga + i * D, D);
        }
        for (int j = 0; j < CHUNK + 2 * WINDOW; j += ROWS) {
            // Context j is seen by the centres j - 2 WINDOW to j.
            const int begin = j - 2 * WINDOW < 0 ? 0 : j - 2 * WINDOW, end = j + ROWS < T ? j + ROWS : T;
            product<D, false>(pull + begin * DIAGONAL + MARGIN + j - begin, 1, DIAGONAL - 1, x.a + begin * D, D, end - begin, x.gb + j * D, D);
        }
        for (int n = 0; n < N; n += ROWS) product<D, false>(x.push + n, 1, N, x.a, D, T, x.gz + n * D, D);
        scatter(gradient, centres + first, CHUNK, x.ga);
        scatter(gradient, rows, CHUNK + 2 * WINDOW, x.gb);
        scatter(gradient, drawn, NEGATIVES, x.gz);
    }
    return loss;
}

}
