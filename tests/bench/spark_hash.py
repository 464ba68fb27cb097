"""Spark's `xxhash64` in numpy, written from the description of XXH64
(https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md).

The pipeline orders equal times, and draws one of several values, by this hash. Whoever counts its
tables without Spark needs the same. Spark hashes a row column by column, each with the hash so far
as its seed: an int as four bytes, a bigint or timestamp (microseconds) as eight, a string as its
bytes in UTF-8; a null leaves the hash as it is.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
"""Unsigned 64-bit words; arithmetic is modulo 2**64."""
PRIMES = [
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
]
P1, P2, P3, P4, P5 = (np.uint64(prime) for prime in PRIMES)
SPARK_SEED = 42
STRIPE = 32
"""Bytes that the four accumulators take at once."""


def start(rows: int) -> Words:
    """The hash of `rows` rows of no column."""
    return np.full(rows, SPARK_SEED, dtype=np.uint64)


def with_int(hashes: Words, values: npt.ArrayLike) -> Words:
    """Adds a column of 32-bit integers."""
    words = np.asarray(values, dtype=np.int64).astype(np.uint64) & np.uint64(0xFFFFFFFF)
    return _finish(_add_four(hashes + P5 + np.uint64(4), words))


def with_long(hashes: Words, values: npt.ArrayLike) -> Words:
    """Adds a column of 64-bit integers, or of times in microseconds."""
    return _finish(
        _add_eight(hashes + P5 + np.uint64(8), np.asarray(values, dtype=np.int64).astype(np.uint64))
    )


def with_text(hashes: Words, values: Sequence[str]) -> Words:
    """Adds a column of strings; equal lengths are hashed together."""
    texts = np.array([value.encode() for value in values], dtype=object)
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    result = hashes.copy()
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        block = np.frombuffer(b"".join(texts[rows]), dtype=np.uint8).reshape(len(rows), length)
        result[rows] = _text(block, hashes[rows])
    return result


def _text(block: npt.NDArray[np.uint8], seeds: Words) -> Words:
    """Hashes of strings of one length; block: [rows, length]."""
    length = block.shape[1]
    whole = length - length % STRIPE
    hashes = _stripes(block[:, :whole], seeds) if whole else seeds + P5
    hashes = hashes + np.uint64(length)
    position = whole
    for size, add in ((8, _add_eight), (4, _add_four), (1, _add_one)):
        while position + size <= length:
            hashes = add(hashes, _word(block, position, size))
            position += size
    return _finish(hashes)


def _stripes(block: npt.NDArray[np.uint8], seeds: Words) -> Words:
    lanes = [seeds + P1 + P2, seeds + P2, seeds.copy(), seeds - P1]
    for stripe in range(0, block.shape[1], STRIPE):
        lanes = [
            _round(lane, _word(block, stripe + 8 * number, 8)) for number, lane in enumerate(lanes)
        ]
    hashes = sum(
        (_rotated(lane, turn) for lane, turn in zip(lanes, (1, 7, 12, 18), strict=True)),
        np.zeros_like(seeds),
    )
    for lane in lanes:
        hashes = (hashes ^ _round(np.zeros_like(lane), lane)) * P1 + P4
    return hashes


def _word(block: npt.NDArray[np.uint8], position: int, size: int) -> Words:
    """Little-endian words of `size` bytes."""
    piece = block[:, position : position + size].astype(np.uint64)
    return sum(
        (piece[:, i] << np.uint64(8 * i) for i in range(size)),
        np.zeros(len(piece), dtype=np.uint64),
    )


def _round(lane: Words, words: Words) -> Words:
    return _rotated(lane + words * P2, 31) * P1


def _add_eight(hashes: Words, words: Words) -> Words:
    return _rotated(hashes ^ _round(np.zeros_like(words), words), 27) * P1 + P4


def _add_four(hashes: Words, words: Words) -> Words:
    return _rotated(hashes ^ (words * P1), 23) * P2 + P3


def _add_one(hashes: Words, words: Words) -> Words:
    return _rotated(hashes ^ (words * P5), 11) * P1


def _finish(hashes: Words) -> Words:
    hashes = (hashes ^ (hashes >> np.uint64(33))) * P2
    hashes = (hashes ^ (hashes >> np.uint64(29))) * P3
    return hashes ^ (hashes >> np.uint64(32))


def _rotated(words: Words, turn: int) -> Words:
    return (words << np.uint64(turn)) | (words >> np.uint64(64 - turn))
