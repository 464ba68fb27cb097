"""Random numbers as a pure function of what they are for.

A draw is keyed by (seed, purpose, step, lane, index...): it does not depend on which rank makes it,
on what was drawn before, or on the version of a library. Each number is the SplitMix64 finaliser
applied to a running hash of its key (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014).
"""

import hashlib

import numpy as np
import numpy.typing as npt

from trainer.arrays import Float64s, Int64s

UInt64s = npt.NDArray[np.uint64]
Key = int | npt.NDArray[np.integer]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def purpose(name: str) -> int:
    """A number below 2^63 that stands for a name in a key (so a new view changes no other view's
    draws)."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def bits(*key: Key) -> UInt64s:
    """64 random bits for each element of the keys, which broadcast against each other; uint64.

    A number depends on its key alone, whatever is drawn beside it:

    >>> together = bits(7, np.array([0, 1, 2, 3]))
    >>> bool(together[2] == bits(7, 2)[0])
    True
    """
    state: UInt64s = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for part in key:
            number = np.asarray(part).astype(np.uint64)
            state = _finalise((state ^ number) + _GOLDEN)
    return state


def uniform(*key: Key) -> Float64s:
    """Uniform numbers in [0, 1) with 53 random bits, shaped as the keys broadcast; float64."""
    # A float64 holds 53 bits: more would round up to 1 now and then.
    high = bits(*key) >> np.uint64(11)
    return high.astype(np.float64) * 2.0**-53


def permutation(n: int, *key: int) -> Int64s:
    """A permutation of 0 .. n-1; int64."""
    return np.argsort(bits(*key, np.arange(n)), kind="stable")


def _finalise(state: UInt64s) -> UInt64s:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    mixed: UInt64s = state ^ (state >> np.uint64(31))
    return mixed
