// The exchange between ranks of one host, over memory that they share (see trainer/ranks/shared_memory.py and trainer/embeddings/tables.py). DIMENSION is a macro.

#include <climits>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vector.h"

namespace {

// Where ranks meet. Alone in its memory, which is 0 at first.
struct Meeting {
    uint32_t arrived;
    uint32_t number;                                   // of meetings that are over
};

inline void rest() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

}  // namespace

extern "C" {

// Says that this rank has come; returns the number of the meeting, which `wait` is given.
uint32_t arrive(Meeting* meeting, uint32_t ranks) {
    // Read before this rank counts: once it does, the meeting may be over.
    const uint32_t number = __atomic_load_n(&meeting->number, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&meeting->arrived, 1, __ATOMIC_ACQ_REL) == ranks) {
        __atomic_store_n(&meeting->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&meeting->number, number + 1, __ATOMIC_RELEASE);
        syscall(SYS_futex, &meeting->number, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
    }
    return number;
}

// Waits until all have come to meeting `number`, awake for `looks` looks and then asleep for `nanoseconds` at most. Returns 1 when they have.
int wait(Meeting* meeting, uint32_t number, int64_t looks, int64_t nanoseconds) {
    for (int64_t i = 0; i < looks; ++i) {
        if (__atomic_load_n(&meeting->number, __ATOMIC_ACQUIRE) != number) return 1;
        rest();
    }
    const timespec limit{nanoseconds / 1000000000, nanoseconds % 1000000000};
    if (__atomic_load_n(&meeting->number, __ATOMIC_ACQUIRE) == number)
        syscall(SYS_futex, &meeting->number, FUTEX_WAIT, number, &limit, nullptr, 0);
    return __atomic_load_n(&meeting->number, __ATOMIC_ACQUIRE) != number;
}

// Puts keys, in ascending order, with their gradients into a mailbox, by owner: key mod ranks. sent[rank] = how many are for it.
void post(const int64_t* keys, const float* gradient, int64_t count, int64_t ranks, int64_t* box_keys, float* box_gradient, int64_t* sent) {
    int64_t next[ranks];
    memset(sent, 0, ranks * sizeof(int64_t));
    for (int64_t i = 0; i < count; ++i) ++sent[keys[i] % ranks];
    for (int64_t rank = 0, begin = 0; rank < ranks; begin += sent[rank++]) next[rank] = begin;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t at = next[keys[i] % ranks]++;
        box_keys[at] = keys[i];
        memcpy(box_gradient + at * DIMENSION, gradient + i * DIMENSION, DIMENSION * sizeof(float));
    }
}

// Sums what the ranks sent for the rows of one of them: boxes in rank order, each `counts` long with keys in ascending order.
// rows: local rows (key / ranks), ascending; sums: their gradients. Returns how many rows there are.
int64_t collect(const int64_t* const* keys, const float* const* gradients, const int64_t* counts, int64_t ranks, int64_t* rows, float* sums) {
    int64_t at[ranks], found = 0;
    memset(at, 0, sizeof at);
    for (;; ++found) {
        int64_t least = INT64_MAX;
        for (int64_t rank = 0; rank < ranks; ++rank)
            if (at[rank] < counts[rank] && keys[rank][at[rank]] < least) least = keys[rank][at[rank]];
        if (least == INT64_MAX) return found;
        float* const to = sums + found * DIMENSION;
        rows[found] = least / ranks;
        bool first = true;
        for (int64_t rank = 0; rank < ranks; ++rank) {
            if (at[rank] == counts[rank] || keys[rank][at[rank]] != least) continue;
            const float* const from = gradients[rank] + at[rank]++ * DIMENSION;
            if (first) memcpy(to, from, DIMENSION * sizeof(float));
            else for (int k = 0; k < DIMENSION; ++k) to[k] += from[k];
            first = false;
        }
    }
}

}
