// Centres with contexts of their own and with negatives drawn for each chunk, for one core: skip-gram, and the alignment of a relation, for
// which r = sigmoid(W e) stands in the place of e. DIMENSION, CHUNK and NEGATIVES are macros (see build.py). The twins: trainer/objective/fast_pairs.py.
//
// Chunks are taken a slice at a time. What a slice sees as contexts and negatives is gathered once a distinct row: values have far fewer rows
// than they are seen, so most of the work of W is saved, and so are most of the sums into the gradient.

#include <cstdint>
#include <cstring>
#include <vector>

#include "scores.h"

namespace {

constexpr int N = padded(NEGATIVES);
constexpr int T = whole_rows(CHUNK);
constexpr int TILE = 64;                               // rows that go through W together
constexpr int BATCH = 64;                              // contexts that are scored together
constexpr int64_t ROOM = 4096;                         // contexts and negatives of a slice of several chunks

// Where everything stands: rows of the vectors, and `first`, the first context of each place of the chunks and one past the last.
struct Places { const int64_t *centres, *first, *contexts, *negatives; };

struct Matrix {
    alignas(64) float forward[D * D];                  // W transposed
    alignas(64) float backward[D * D];                 // W
    alignas(64) float slope[D * D];

    void set(const float* w) {
        memset(this, 0, sizeof *this);
        for (int i = 0; i < DIMENSION; ++i)
            for (int k = 0; k < DIMENSION; ++k) backward[i * D + k] = forward[k * D + i] = w[i * DIMENSION + k];
    }

    // r = sigmoid(W e) for `count` rows, a multiple of ROWS.
    void map(const float* e, int count, float* r) const {
        for (int i = 0; i < count; i += ROWS) product<D, false>(e + i * D, D, 1, forward, D, DIMENSION, r + i * D, D);
        for (int i = 0; i < count * D; i += LANES) {
            const Vector x = *(const Vector*)(r + i);
            *(Vector*)(r + i) = x == x ? logistic(x).slope : x;  // what is not a number is seen in the loss
        }
        for (int i = 0; i < count; ++i) memset(r + i * D + DIMENSION, 0, (D - DIMENSION) * sizeof(float));
    }

    // From the slope by r, which becomes the slope by W e, to those by e and by W.
    void map_back(const float* e, const float* r, int count, float* by_r, float* by_e) {
        for (int i = 0; i < count * D; i += LANES) {
            const Vector x = *(const Vector*)(r + i);
            *(Vector*)(by_r + i) *= x * (1.0f - x);
        }
        for (int i = 0; i < count; i += ROWS) product<D, false>(by_r + i * D, D, 1, backward, D, DIMENSION, by_e + i * D, D);
        for (int k = 0; k < DIMENSION; k += ROWS) product<D, true>(by_r + k, 1, D, e, D, count, slope + k * D, D);
    }
};

// Floats that begin on a line of the cache.
class Block {
public:
    float* take(size_t count) {
        if (lines.size() * LANES < count) lines.resize(padded(count) / LANES);
        return lines.data()->values;
    }

private:
    struct alignas(LINE) Line { float values[LANES]; };
    std::vector<Line> lines;
};

// The distinct rows that a slice sees as contexts and negatives, in the order in which it sees them first.
struct Seen {
    std::vector<int32_t> number_of;                    // of each row of the vectors, -1 where it is not seen
    std::vector<int64_t> rows;
    std::vector<int32_t> contexts, negatives;          // number of each
    Block values_block, gradient_block;
    float *values, *gradient;                          // [rows, D], with TILE rows to spare

    void find(const int64_t* of_contexts, int64_t context_count, const int64_t* of_negatives, int64_t negative_count) {
        number(of_contexts, context_count, contexts);
        number(of_negatives, negative_count, negatives);
        values = values_block.take((rows.size() + TILE) * D);
        gradient = gradient_block.take((rows.size() + TILE) * D);
        memset(gradient, 0, (rows.size() + TILE) * D * sizeof(float));
    }

    void forget() {
        for (const int64_t row : rows) number_of[row] = -1;
        rows.clear();
    }

private:
    void number(const int64_t* of, int64_t count, std::vector<int32_t>& numbers) {
        numbers.resize(count);
        for (int64_t i = 0; i < count; ++i) {
            int32_t& known = number_of[of[i]];
            if (known < 0) {
                known = rows.size();
                rows.push_back(of[i]);
            }
            numbers[i] = known;
        }
    }
};

struct Buffers {
    alignas(64) float a[T * D], e[T * D];              // centres: what is scored, and their vectors
    alignas(64) float z[N * D], zt[D * N];             // negatives, and transposed
    alignas(64) float push[T * N];                     // slopes by the scores of negatives
    alignas(64) float times[T * N];                    // how often each negative counts
    alignas(64) float ga[T * D], gz[N * D];
    alignas(64) float tile[TILE * D], back[(T > TILE ? T : TILE) * D];
    alignas(64) int32_t drawn[N];
};

inline void add_scaled(float* to, float factor, const float* from) {
    for (int k = 0; k < D; k += LANES) *(Vector*)(to + k) += factor * *(const Vector*)(from + k);
}

// Contexts of the chunk whose places begin with *first; their numbers begin with *numbers.
inline void score_contexts(Buffers& x, Seen& seen, const int64_t* first, const int32_t* numbers, float scale, const Head& head, Sums& sums) {
    const int64_t end = first[CHUNK];
    int i = 0;
    for (int64_t at = first[0]; at < end; at += BATCH, numbers += BATCH) {
        const int count = end - at < BATCH ? end - at : BATCH;
        alignas(64) float score[BATCH] = {}, times[BATCH] = {};
        int of[BATCH];
        for (int j = 0; j < count; ++j) {
            while (first[i + 1] <= at + j) ++i;
            of[j] = i;
            times[j] = 1;
            score[j] = dot(x.a + i * D, seen.values + numbers[j] * D);
        }
        lose(score, times, padded(count), -1, scale, head, sums);
        for (int j = 0; j < count; ++j) {
            add_scaled(x.ga + of[j] * D, score[j], seen.values + numbers[j] * D);
            add_scaled(seen.gradient + numbers[j] * D, score[j], x.a + of[j] * D);
        }
    }
}

// How often a negative counts for each centre: once for each context that it is not; in a relation not at all where it is one.
inline void count_negatives(Buffers& x, const int64_t* first, const int32_t* numbers, float weight, bool relational) {
    for (int i = 0; i < CHUNK; ++i) {
        float* const times = x.times + i * N;
        for (int n = 0; n < NEGATIVES; ++n) times[n] = first[i + 1] - first[i];
        for (int64_t at = first[i]; at < first[i + 1]; ++at) {
            const int32_t context = numbers[at - first[0]];
            for (int v = 0; v < N; v += LANES) {
                const Integers same = *(const Integers*)(x.drawn + v) == context;
                Vector& counted = *(Vector*)(times + v);
                counted = relational ? (Vector)((Integers)counted & ~same) : counted + __builtin_convertvector(same, Vector);
            }
        }
        for (int v = 0; v < N; v += LANES) *(Vector*)(times + v) *= weight;
    }
}

inline void score_negatives(Buffers& x, Seen& seen, float scale, const Head& head, Sums& sums) {
    for (int n = 0; n < NEGATIVES; ++n) memcpy(x.z + n * D, seen.values + x.drawn[n] * D, D * sizeof(float));
    for (int n = 0; n < NEGATIVES; ++n)
        for (int k = 0; k < DIMENSION; ++k) x.zt[k * N + n] = x.z[n * D + k];
    for (int i = 0; i < T; i += ROWS) product<N, false>(x.a + i * D, D, 1, x.zt, N, DIMENSION, x.push + i * N, N);
    for (int i = 0; i < CHUNK; ++i) lose(x.push + i * N, x.times + i * N, N, 1, scale, head, sums);
    for (int i = 0; i < T; i += ROWS) product<D, true>(x.push + i * N, N, 1, x.z, D, NEGATIVES, x.ga + i * D, D);
    for (int n = 0; n < N; n += ROWS) product<D, false>(x.push + n, 1, N, x.a, D, CHUNK, x.gz + n * D, D);
    for (int n = 0; n < NEGATIVES; ++n) add_scaled(seen.gradient + x.drawn[n] * D, 1, x.gz + n * D);
}

// Visits the rows seen a tile at a time: tile(first, count).
template <typename Tile>
inline void tiles(const Seen& seen, Tile tile) {
    const int64_t all = seen.rows.size();
    for (int64_t at = 0; at < all; at += TILE) tile(at, int(all - at < TILE ? all - at : TILE));
}

// Chunks [begin, end).
void slice(Buffers& x, Seen& seen, Matrix& matrix, const float* vectors, float* gradient, const Places& places, int64_t begin, int64_t end,
           float weight, float scale, const Head& head, Sums& sums) {
    const int64_t first = places.first[begin * CHUNK];
    seen.find(places.contexts + first, places.first[end * CHUNK] - first, places.negatives + begin * NEGATIVES, (end - begin) * NEGATIVES);
    float* const centres = head.relational ? x.e : x.a;
    tiles(seen, [&](int64_t at, int count) {
        float* const to = head.relational ? x.tile : seen.values + at * D;
        gather(to, vectors, seen.rows.data() + at, count);
        if (head.relational) matrix.map(x.tile, whole_rows(count), seen.values + at * D);
    });
    for (int64_t chunk = begin; chunk < end; ++chunk) {
        const int64_t* const of = places.first + chunk * CHUNK;
        const int32_t* const contexts = seen.contexts.data() + (of[0] - first);
        memcpy(x.drawn, seen.negatives.data() + (chunk - begin) * NEGATIVES, NEGATIVES * sizeof(int32_t));
        gather(centres, vectors, places.centres + chunk * CHUNK, CHUNK);
        if (head.relational) matrix.map(x.e, T, x.a);
        memset(x.ga, 0, sizeof x.ga);
        score_contexts(x, seen, of, contexts, scale, head, sums);
        count_negatives(x, of, contexts, weight, head.relational);
        score_negatives(x, seen, scale, head, sums);
        if (head.relational) matrix.map_back(x.e, x.a, T, x.ga, x.back);
        scatter(gradient, places.centres + chunk * CHUNK, CHUNK, head.relational ? x.back : x.ga);
    }
    tiles(seen, [&](int64_t at, int count) {
        const int64_t* const rows = seen.rows.data() + at;
        float* const slope = seen.gradient + at * D;
        if (head.relational) {
            gather(x.tile, vectors, rows, count);
            matrix.map_back(x.tile, seen.values + at * D, whole_rows(count), slope, x.back);
        }
        scatter(gradient, rows, count, head.relational ? x.back : slope);
    });
    seen.forget();
}

// All chunks, a slice at a time.
Sums slices(Matrix& matrix, const float* vectors, float* gradient, const Places& places, int64_t chunks, int64_t rows, float weight, float scale,
            const Head& head) {
    static thread_local Buffers x;
    static thread_local Seen seen;
    memset(&x, 0, sizeof x);
    memset(x.drawn, -1, sizeof x.drawn);
    if ((int64_t)seen.number_of.size() < rows) seen.number_of.resize(rows, -1);
    Sums sums{};
    for (int64_t begin = 0, end; begin < chunks; begin = end) {
        const auto reads = [&](int64_t to) { return places.first[to * CHUNK] - places.first[begin * CHUNK] + (to - begin) * NEGATIVES; };
        for (end = begin + 1; end < chunks && reads(end + 1) <= ROOM;) ++end;
        slice(x, seen, matrix, vectors, gradient, places, begin, end, weight, scale, head, sums);
    }
    return sums;
}

}  // namespace

extern "C" {

// Loss of skip-gram over chunks of centres; adds scale * its gradient to `gradient`.
// centres: [chunks * CHUNK] rows of `vectors`, which has `rows`; first: [chunks * CHUNK + 1] where the contexts of each begin;
// contexts: [first's last], negatives: [chunks, NEGATIVES] rows of `vectors`; weight: what a negative counts for each context.
double pairs(const float* vectors, float* gradient, const int64_t* centres, const int64_t* first, const int64_t* contexts,
             const int64_t* negatives, int64_t chunks, int64_t rows, float weight, float scale) {
    static thread_local Matrix none;
    return slices(none, vectors, gradient, {centres, first, contexts, negatives}, chunks, rows, weight, scale, {1, 0, false, false}).loss;
}

// Loss of a relation, likewise: by eq. 4 where it is `printed`, else the cross-entropy on t (r . r) + b. w: [DIMENSION, DIMENSION];
// slope: [DIMENSION, DIMENSION], by_t and by_b become scale * the gradients of w, t and b.
double relation(const float* vectors, float* gradient, const int64_t* centres, const int64_t* first, const int64_t* contexts,
                const int64_t* negatives, int64_t chunks, int64_t rows, float weight, float scale, const float* w, float t, float b, int printed,
                float* slope, float* by_t, float* by_b) {
    static thread_local Matrix matrix;
    matrix.set(w);
    const Sums sums = slices(matrix, vectors, gradient, {centres, first, contexts, negatives}, chunks, rows, weight, scale,
                             {t, b, true, printed != 0});
    for (int i = 0; i < DIMENSION; ++i) memcpy(slope + i * DIMENSION, matrix.slope + i * D, DIMENSION * sizeof(float));
    *by_t = sums.t;
    *by_b = sums.b;
    return sums.loss;
}

}
