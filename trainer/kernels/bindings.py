"""The compiled functions as Python calls them: their arguments, in the order of the C beside this.

Each function here compiles a library for the sizes of a run and gives one of its functions. All of
them raise KernelError where that cannot be done. Pointers come from `build.pointer`: ctypes checks
the number of the arguments and the kind of each, and nothing of what they point to.
"""

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

from trainer.kernels.build import load_library

POINTER = ctypes.c_void_p
INT64 = ctypes.c_int64
INT = ctypes.c_int
UINT32 = ctypes.c_uint32
FLOAT = ctypes.c_float

Loss = Callable[..., float]
"""Gives a sum over pairs, in double."""


def bind_windows(dimension: int, chunk: int, negatives: int, window: int) -> Loss:
    """Skip-gram over chunks of sequences (windows.cpp)."""
    library = load_library(
        "windows", dimension=dimension, chunk=chunk, negatives=negatives, window=window
    )
    function = library.windows
    function.restype = ctypes.c_double
    function.argtypes = [
        POINTER,  # vectors [padding + 1, d]
        POINTER,  # gradient, likewise
        POINTER,  # centres [chunks, chunk]
        POINTER,  # contexts [chunks, chunk]
        POINTER,  # sequence [chunks, chunk]
        POINTER,  # negatives [chunks, N]
        INT64,  # chunks
        INT64,  # padding
        FLOAT,  # weight
        FLOAT,  # scale
    ]
    return function


_CENTRES: list[Any] = [
    POINTER,  # vectors [rows, d]
    POINTER,  # gradient [rows, d]
    POINTER,  # centres [chunks * chunk]
    POINTER,  # first [chunks * chunk + 1]
    POINTER,  # contexts [pairs]
    POINTER,  # negatives [chunks, N]
    INT64,  # chunks
    INT64,  # rows
    FLOAT,  # weight
    FLOAT,  # scale
]
"""What both functions over chunks of centres begin with."""


def bind_pairs(dimension: int, chunk: int, negatives: int) -> Loss:
    """Skip-gram over chunks of centres with contexts (centres.cpp)."""
    library = load_library("centres", dimension=dimension, chunk=chunk, negatives=negatives)
    function = library.pairs
    function.restype = ctypes.c_double
    function.argtypes = _CENTRES
    return function


def bind_relation(dimension: int, chunk: int, negatives: int) -> Loss:
    """The relational loss over chunks of centres with contexts (centres.cpp)."""
    library = load_library("centres", dimension=dimension, chunk=chunk, negatives=negatives)
    function = library.relation
    function.restype = ctypes.c_double
    function.argtypes = [
        *_CENTRES,
        POINTER,  # w [d, d]
        FLOAT,  # t
        FLOAT,  # b
        INT,  # printed
        POINTER,  # slope [d, d], written
        POINTER,  # by_t [], written
        POINTER,  # by_b [], written
    ]
    return function


def bind_exact(dimension: int, negatives: int) -> Loss:
    """Pairs with their own negatives, of a view or of a relation (exact.cpp)."""
    function = load_library("exact", dimension=dimension, negatives=negatives).exact
    function.restype = ctypes.c_double
    function.argtypes = [
        POINTER,  # vectors [rows, d]
        POINTER,  # gradient [rows, d]
        POINTER,  # centres [pairs]
        POINTER,  # contexts [pairs]
        POINTER,  # negatives [pairs, k]
        POINTER,  # counts [pairs, k], a byte each
        INT64,  # pairs
        FLOAT,  # scale
        FLOAT,  # t
        FLOAT,  # b
        INT,  # printed
        POINTER,  # by_t [], written
        POINTER,  # by_b [], written
    ]
    return function


def bind_read(dimension: int) -> Callable[..., None]:
    """Rows of a table, one after the other (tables.cpp)."""
    function = load_library("tables", dimension=dimension).read
    function.restype = None
    function.argtypes = [
        POINTER,  # values [rows, d]
        POINTER,  # rows [count]
        INT64,  # count
        POINTER,  # vectors [count, d], written
    ]
    return function


def bind_adagrad(dimension: int) -> Callable[..., None]:
    """Row-wise Adagrad (tables.cpp)."""
    function = load_library("tables", dimension=dimension).adagrad
    function.restype = None
    function.argtypes = [
        POINTER,  # values [rows, d], moved
        POINTER,  # square_sum [rows], moved
        POINTER,  # rows [count]
        POINTER,  # gradient [count, d]
        INT64,  # count
        INT64,  # stride, in rows
        FLOAT,  # shrink
        FLOAT,  # rate
        FLOAT,  # epsilon
    ]
    return function


def bind_distinct() -> Callable[..., int]:
    """Distinct keys in ascending order (keys.cpp)."""
    function = load_library("keys").distinct
    function.restype = INT64
    function.argtypes = [
        POINTER,  # keys [count]
        INT64,  # count
        POINTER,  # bits [words]
        POINTER,  # below [words]
        INT64,  # size
        POINTER,  # found [count], written
        POINTER,  # index [count], written
    ]
    return function


def bind_draw() -> Callable[..., None]:
    """Draws from a noise distribution (keys.cpp)."""
    function = load_library("keys").draw
    function.restype = None
    function.argtypes = [
        ctypes.c_uint64,  # state of the key so far
        POINTER,  # lanes [chunks]
        POINTER,  # numbers [chunks]
        INT64,  # chunks
        INT64,  # count
        POINTER,  # keep [nodes]
        POINTER,  # alias [nodes]
        INT64,  # nodes
        POINTER,  # drawn [chunks, count], written
    ]
    return function


class ExchangeKernel(NamedTuple):
    """The exchange between ranks that share memory (exchange.cpp)."""

    arrive: Callable[..., int]
    """Says that this rank has come; gives the number of the meeting."""
    wait: Callable[..., int]
    """Waits for all, so long at most; gives 1 when they have come."""
    post: Callable[..., None]
    """Puts gradients into this rank's mailboxes."""
    collect: Callable[..., int]
    """Sums what all ranks have posted for this one; gives how many distinct rows there are."""


def bind_exchange(dimension: int) -> ExchangeKernel:
    """Its four functions."""
    library = load_library("exchange", dimension=dimension)
    library.arrive.restype = UINT32
    library.arrive.argtypes = [
        POINTER,  # meeting
        UINT32,  # ranks
    ]
    library.wait.restype = INT
    library.wait.argtypes = [
        POINTER,  # meeting
        UINT32,  # number of the meeting
        INT64,  # looks
        INT64,  # nanoseconds
    ]
    library.post.restype = None
    library.post.argtypes = [
        POINTER,  # keys [count]
        POINTER,  # gradients [count, d]
        INT64,  # count
        INT64,  # ranks
        POINTER,  # box of keys, written
        POINTER,  # box of gradients, written
        POINTER,  # sent [ranks], written
    ]
    library.collect.restype = INT64
    library.collect.argtypes = [
        POINTER,  # keys: where each rank's begin
        POINTER,  # gradients: where each rank's begin
        POINTER,  # counts [ranks]
        INT64,  # ranks
        POINTER,  # rows, written
        POINTER,  # sums, written
    ]
    return ExchangeKernel(library.arrive, library.wait, library.post, library.collect)
