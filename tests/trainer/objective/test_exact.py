"""The exact step by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.trainer import twins
from tests.trainer.shards import WINDOW, expand
from tests.trainer.twins import Centres
from trainer.objective.chunks import Sampler
from trainer.objective.exact import ExactIntraWork, ExactKernel, ExactRelationWork
from trainer.objective.exact import expand as expand_rows
from trainer.objective.noise import DrawKernel
from trainer.objective.relations import RelationParameters

SCALE = 0.5
TOLERANCE = 1e-5


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_loss_and_gradients_of_equation_3_by_hand() -> None:
    """Sequence (0, 1), k = 2, and a noise that draws node 1 alone.

    The pair (0, 1) has only its own context as negatives: they do not count. The pair (1, 0) counts
    node 1 twice.
    """
    v, u = torch.tensor([[0.5, -1.0], [2.0, 0.25]]), torch.tensor([[1.0, 0.5], [-0.5, 1.5]])
    work = ExactIntraWork(
        twins.lanes_of_sequences([(0, [[0, 1]])]), 1, twins.sampler([0, 7]), 2, (0, 2)
    )
    got = twins.evaluate(work, torch.cat((v, u)), SCALE)

    near, own, other = float(v[0] @ u[1]), float(v[1] @ u[0]), float(v[1] @ u[1])
    assert (near, own, other) == (-1.75, 2.125, -0.625)
    assert work.pairs == 2
    assert got.loss == pytest.approx(softplus(1.75) + softplus(-2.125) + 2 * softplus(-0.625))
    expected = torch.stack(
        [
            -sigmoid(1.75) * u[1],
            -sigmoid(-2.125) * u[0] + 2 * sigmoid(-0.625) * u[1],
            -sigmoid(-2.125) * v[1],
            -sigmoid(1.75) * v[0] + 2 * sigmoid(-0.625) * v[1],
        ]
    )
    assert torch.allclose(got.gradient, SCALE * expected, rtol=1e-6)


@pytest.mark.parametrize("printed", [False, True])
def test_every_value_linked_to_the_item_is_masked_in_a_relation(printed: bool) -> None:
    """Item 0 has the values 0 and 1; the noise draws 0, 1 and 2, and only 2 counts, for both
    pairs."""
    k, d = 40, 2
    tables = twins.random_tables(3, d)
    head = {
        "W": torch.tensor([[0.6, -0.8], [0.8, 0.6]]),
        "t": torch.tensor(1.5),
        "b": torch.tensor(-0.5),
    }
    lanes: list[tuple[int, Centres]] = [(0, [(0, [0, 1])])]
    negatives = twins.sampler([1, 1, 1])
    work = ExactRelationWork("r", twins.lanes_of_centres(lanes), negatives, k, (0, 3), printed)
    got = twins.evaluate(work, tables, SCALE, {f"r.{name}": value for name, value in head.items()})

    drawn = negatives.noise.draw(*negatives.key, 0, 0, np.arange(2)[:, None], np.arange(k))
    assert set(drawn.reshape(-1).tolist()) == {0, 1, 2}
    counted = int((drawn == 2).sum())
    item, *values = (torch.sigmoid(head["W"] @ tables[row]) for row in (0, 3, 4, 5))
    dots = [float(item @ value) for value in values]
    if printed:
        # -eq. 4: the positives with a minus, the negatives with a plus.
        expected = -dots[0] - dots[1] + counted * dots[2]
        assert not got.dense["r.t"].any()
        assert not got.dense["r.b"].any()
    else:
        scores = [1.5 * dot - 0.5 for dot in dots]
        expected = softplus(-scores[0]) + softplus(-scores[1]) + counted * softplus(scores[2])
        slope = [-sigmoid(-scores[0]), -sigmoid(-scores[1]), counted * sigmoid(scores[2])]
        assert float(got.dense["r.b"]) == pytest.approx(SCALE * sum(slope), rel=1e-5)
        assert float(got.dense["r.t"]) == pytest.approx(
            SCALE * sum(s * dot for s, dot in zip(slope, dots, strict=True)), rel=1e-5
        )
    assert got.loss == pytest.approx(expected, rel=1e-6)
    assert work.pairs == 2


@pytest.mark.parametrize(("dimension", "k"), [(7, 3), (64, 10), (80, 1)])
def test_the_kernel_of_sequences_agrees_with_autograd(dimension: int, k: int) -> None:
    """Sessions of several lanes, long and short; a view of few nodes, so that many a negative is
    the pair's own context."""
    random = np.random.default_rng(3)
    lanes = twins.lanes_of_sequences(
        [
            (lane, [random.integers(0, 6, length).tolist() for length in (2, 9, 31)])
            for lane in (0, 5)
        ]
    )
    tables = twins.random_tables(6, dimension)
    plain, compiled = (
        twins.evaluate(
            ExactIntraWork(
                lanes, WINDOW, _drawing(kernel), k, (0, 6), kernel and ExactKernel(dimension, k)
            ),
            tables,
            SCALE,
        )
        for kernel in (None, DrawKernel())
    )
    _agree(plain, compiled)


@pytest.mark.parametrize("printed", [False, True])
def test_the_kernel_of_relations_agrees_with_autograd(printed: bool) -> None:
    d, k = 20, 4
    links: list[tuple[int, Centres]] = [
        (2, [(0, [0, 3]), (1, [1]), (4, [2, 3, 5])]),
        (3, [(item, [item % 6]) for item in range(6)] * 5),
    ]
    dense = RelationParameters("r", d, k, seed=1).start()
    lanes, tables = twins.lanes_of_centres(links), twins.random_tables(6, d)
    plain, compiled = (
        twins.evaluate(
            ExactRelationWork(
                "r", lanes, _drawing(kernel), k, (0, 6), printed, kernel and ExactKernel(d, k)
            ),
            tables,
            SCALE,
            dense,
        )
        for kernel in (None, DrawKernel())
    )
    assert set(plain.dense) == {"r.W", "r.t", "r.b"}
    _agree(plain, compiled)


@pytest.mark.parametrize("compiled", [False, True])
def test_both_encodings_of_the_same_sessions_give_the_same(compiled: bool) -> None:
    """A centre with its contexts in one row of `pairs`, or its session in one of `windows`: same
    pairs, same draws, same step."""
    random = np.random.default_rng(8)
    sessions = [
        (lane, [random.integers(0, 9, length).tolist() for length in (2, 12, 5)]) for lane in (1, 4)
    ]
    centres: list[tuple[int, Centres]] = []
    for lane, listed in sessions:
        contexts: dict[tuple[int, int], list[int]] = {}
        for number, session in enumerate(listed):
            for place, _, context in expand(session, WINDOW):
                contexts.setdefault((number, place), []).append(context)
        centres.append(
            (lane, [(listed[number][place], found) for (number, place), found in contexts.items()])
        )
    kernel = (DrawKernel(), ExactKernel(6, 3)) if compiled else (None, None)
    windows, pairs = (
        twins.evaluate(
            ExactIntraWork(lanes, WINDOW, _drawing(kernel[0]), 3, (0, 9), kernel[1]),
            twins.random_tables(9, 6),
            SCALE,
        )
        for lanes in (twins.lanes_of_sequences(sessions), twins.lanes_of_centres(centres))
    )
    assert windows.loss == pytest.approx(pairs.loss, rel=1e-12)
    assert torch.equal(windows.gradient, pairs.gradient)


def _drawing(kernel: DrawKernel | None) -> Sampler:
    return replace(twins.sampler([3, 1, 4, 1, 5, 9]), kernel=kernel)


def _agree(plain: twins.Evaluated, compiled: twins.Evaluated) -> None:
    assert compiled.loss == pytest.approx(plain.loss, rel=TOLERANCE)
    assert twins.relative_error(compiled.gradient, plain.gradient) < TOLERANCE
    for name, slope in plain.dense.items():
        assert twins.relative_error(compiled.dense[name], slope) < TOLERANCE


def test_every_pair_has_negatives_of_its_own() -> None:
    work = ExactIntraWork(
        twins.lanes_of_sequences([(0, [[0, 1, 2, 3]])]), 2, twins.sampler([1] * 1000), 10, (0, 1000)
    )
    _, _, negatives = work._batch.split(work.keys)
    assert negatives.shape == (work.pairs, 10)
    assert len({tuple(row) for row in negatives.tolist()}) == work.pairs


def test_pairs_expand_as_their_plain_definition() -> None:
    sequences = [[3, 1, 4, 1, 5], [9, 2], [6], [5, 3, 5, 8, 9, 7, 9]]
    centres, contexts, of = expand_rows(twins.sequence_rows(sequences), WINDOW)
    expected = [
        (row, centre, context)
        for row, sequence in enumerate(sequences)
        for _, centre, context in expand(sequence, WINDOW)
    ]
    assert list(zip(of.tolist(), centres.tolist(), contexts.tolist(), strict=True)) == expected
