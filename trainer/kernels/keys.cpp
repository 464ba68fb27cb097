// Work on keys and on draws, for one core: no vectors are looked at. The twins: torch.unique and trainer/noise.py.

#include <cstdint>
#include <cstring>

namespace {

constexpr int WORD = 64;                               // keys of a word of bits

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

}
