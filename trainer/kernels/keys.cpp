// Work on keys and on draws, for one core: no vectors are looked at. The twins: torch.unique and trainer/objective/noise.py.

#include <cstdint>
#include <cstring>

namespace {

constexpr int WORD = 64;                               // keys of a word of bits
constexpr int BLOCK = 256;                             // draws made together

// One more part of a key (see trainer/data/counter_rng.py).
inline uint64_t mix(uint64_t state, uint64_t part) {
    state = (state ^ part) + 0x9E3779B97F4A7C15;
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9;
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB;
    return state ^ (state >> 31);
}

}  // namespace

extern "C" {

// The distinct keys of `keys` in ascending order, and where each of `keys` stands among them. Keys are below `size`.
// bits: a bit for each key in words of 64, all 0, before and afterwards; below: a number for each word; found: room for `count`; index: [count].
// Returns how many there are, or -1 - i where the i-th key is none.
int64_t distinct(const int64_t* keys, int64_t count, uint64_t* bits, uint32_t* below, int64_t size, int64_t* found, int64_t* index) {
    const int64_t words = (size + WORD - 1) / WORD;
    for (int64_t i = 0; i < count; ++i) {
        if ((uint64_t)keys[i] >= (uint64_t)size) {
            memset(bits, 0, words * sizeof(uint64_t));
            return -1 - i;
        }
        bits[keys[i] / WORD] |= (uint64_t)1 << keys[i] % WORD;
    }
    int64_t all = 0;
    for (int64_t word = 0; word < words; ++word) {
        below[word] = all;
        for (uint64_t left = bits[word]; left; left &= left - 1) found[all++] = word * WORD + __builtin_ctzll(left);
    }
    for (int64_t i = 0; i < count; ++i) {
        const uint64_t smaller = bits[keys[i] / WORD] & (((uint64_t)1 << keys[i] % WORD) - 1);
        index[i] = below[keys[i] / WORD] + __builtin_popcountll(smaller);
    }
    memset(bits, 0, words * sizeof(uint64_t));
    return all;
}

// Draws from an alias table (see trainer/objective/noise.py), `count` for each chunk, keyed by what led to `state` and then lane, number and position:
// the very numbers of the twin.
void draw(uint64_t state, const int64_t* lanes, const int64_t* numbers, int64_t chunks, int64_t count, const float* keep,
          const int32_t* alias, int64_t columns, int64_t* drawn) {
    double place[BLOCK];
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const uint64_t key = mix(mix(state, lanes[chunk]), numbers[chunk]);
        for (int64_t first = 0, many; first < count; first += many, drawn += many) {
            many = BLOCK < count - first ? BLOCK : count - first;
            for (int64_t i = 0; i < many; ++i) place[i] = (double)(mix(key, first + i) >> 11) * 0x1p-53 * (double)columns;
            // Rounded here, and not multiplied and subtracted in one.
            __asm__ volatile("" : : "r"(place) : "memory");
            for (int64_t i = 0; i < many; ++i) {
                drawn[i] = (int64_t)place[i] < columns ? (int64_t)place[i] : columns - 1;
                __builtin_prefetch(keep + drawn[i]);
                __builtin_prefetch(alias + drawn[i]);
            }
            for (int64_t i = 0; i < many; ++i)
                if (!(place[i] - (double)drawn[i] < (double)keep[drawn[i]])) drawn[i] = alias[drawn[i]];
        }
    }
}

}
