"""The fast step against its slow twin: the same batch expanded to pairs with the same negatives, in
float64, by autograd."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from tests.trainer import twins
from tests.trainer.shards import Sequences
from tests.trainer.twins import Centres, Expanded
from trainer.objective.batch import Work
from trainer.objective.chunks import NegativeSampling, Sampler
from trainer.objective.exact import ExactIntraWork, ExactKernel, ExactRelationWork
from trainer.objective.fast_pairs import CentreKernel, PairWork, RelationWork
from trainer.objective.fast_windows import WindowKernel, WindowWork, window_pairs
from trainer.objective.noise import Noise
from trainer.objective.relations import RelationParameters

SETTINGS = NegativeSampling(negatives=5, chunk=8, chunk_negatives=6)
SCALE = 0.37
TOLERANCE = 1e-5


def random_sessions(lengths: list[int], nodes: int, seed: int = 1) -> Sequences:
    random = np.random.default_rng(seed)
    return [random.integers(0, nodes, length).tolist() for length in lengths]


SESSIONS: dict[str, tuple[int, list[tuple[int, Sequences]], int]] = {
    # name: (nodes, lanes, window)
    "sessions of two": (30, [(0, random_sessions([2] * 9, 30))], 3),
    "several lanes": (
        30,
        [
            (1, random_sessions([5, 2, 17], 30)),
            (4, random_sessions([3], 30, 2)),
            (9, random_sessions([9, 40], 30, 3)),
        ],
        3,
    ),
    "window wider than the chunk": (30, [(0, random_sessions([40, 12], 30))], 11),
    "a session of seven hundred clicks": (
        200,
        [(0, random_sessions([700], 200)), (1, random_sessions([4], 200))],
        9,
    ),
    "one node": (1, [(0, [[0, 0, 0], [0, 0]])], 3),
    "fewer nodes than negatives": (3, [(0, random_sessions([6, 9], 3))], 2),
}


def reference(
    lanes: list[tuple[int, Centres]], tables: Tensor, whole_row: bool = False
) -> tuple[float, Tensor]:
    batch = twins.expand_fast(lanes, twins.sampler([1] * (len(tables) // 2)), SETTINGS, whole_row)
    leaf = tables.double().requires_grad_()
    loss = twins.intra_loss(batch, leaf)
    return float(loss.detach()), torch.autograd.grad(loss, leaf)[0] * SCALE


def check_intra(work: Work, lanes: list[tuple[int, Centres]], tables: Tensor) -> None:
    got = twins.evaluate(work, tables, SCALE)
    loss, gradient = reference(lanes, tables)
    assert work.pairs == sum(len(contexts) for _, centres in lanes for _, contexts in centres)
    assert got.loss == pytest.approx(loss, rel=TOLERANCE)
    assert twins.relative_error(got.gradient, gradient) < TOLERANCE


def windows(
    lanes: list[tuple[int, Sequences]],
    window: int,
    negatives: Sampler,
    nodes: int,
    dimension: int | None = None,
) -> WindowWork:
    """`dimension`: of the compiled kernel; none: PyTorch computes."""
    kernel = None if dimension is None else WindowKernel(dimension, SETTINGS, window)
    return WindowWork(
        twins.lanes_of_sequences(lanes), window, negatives, SETTINGS, (0, nodes), kernel
    )


@pytest.mark.parametrize("dimension", [7, 16, 64])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", SESSIONS)
def test_windows_are_their_pairs_with_the_same_negatives(
    name: str, compiled: bool, dimension: int
) -> None:
    nodes, lanes, window = SESSIONS[name]
    tables = twins.random_tables(nodes, dimension, scale=2 / dimension**0.5)
    work = windows(
        lanes, window, twins.sampler([1] * nodes), nodes, dimension if compiled else None
    )
    check_intra(
        work, [(lane, twins.centres_of(sequences, window)) for lane, sequences in lanes], tables
    )


@pytest.mark.parametrize("compiled", [False, True])
def test_a_session_of_ten_thousand_clicks(compiled: bool) -> None:
    """The expanded twin takes most of the seconds."""
    lanes = [(0, random_sessions([10_000], 500))]
    work = windows(lanes, 9, twins.sampler([1] * 500), 500, 4 if compiled else None)
    check_intra(
        work,
        [(lane, twins.centres_of(sequences, 9)) for lane, sequences in lanes],
        twins.random_tables(500, 4, scale=1),
    )


def test_a_view_of_ten_million_nodes() -> None:
    """The twin knows the few nodes of the batch by other numbers."""
    nodes = 10_000_000
    negatives = Sampler(Noise(np.ones(nodes, np.int64), 0.75), (11, 12), 0)
    lanes = [(0, random_sessions([40, 12], nodes))]
    batch = twins.expand_fast(
        [(lane, twins.centres_of(sequences, 9)) for lane, sequences in lanes],
        negatives,
        SETTINGS,
        whole_row=False,
    )
    seen = sorted({node for row in (*batch.positive, *batch.negative) for node in row[:2]})
    assert seen[-1] > 0.9 * nodes
    number = {int(node): i for i, node in enumerate(seen)}
    small = Expanded(
        [(number[a], number[b]) for a, b in batch.positive],
        [(number[a], number[b], weight) for a, b, weight in batch.negative],
    )
    tables = twins.random_tables(len(seen), 4)
    leaf = tables.double().requires_grad_()
    loss = twins.intra_loss(small, leaf)
    expected = torch.autograd.grad(loss, leaf)[0] * SCALE
    for kernel in (None, WindowKernel(4, SETTINGS, 9)):
        work = WindowWork(
            twins.lanes_of_sequences(lanes), 9, negatives, SETTINGS, (0, nodes), kernel
        )
        keys, index = torch.unique(work.keys, return_inverse=True)
        rows = torch.tensor(
            [number[key % nodes] + key // nodes * len(seen) for key in keys.tolist()]
        )
        vectors = torch.cat((tables[rows], torch.zeros(1, 4)))
        gradient = torch.zeros_like(vectors)
        outcome = work.evaluate(index, vectors, gradient, SCALE, {})
        assert float(outcome.loss) == pytest.approx(float(loss.detach()), rel=TOLERANCE)
        assert twins.relative_error(gradient[:-1], expected[rows]) < TOLERANCE


def pairs(
    lanes: list[tuple[int, Centres]], negatives: Sampler, nodes: int, dimension: int | None = None
) -> PairWork:
    """`dimension`: of the compiled kernel; none: PyTorch computes."""
    kernel = None if dimension is None else CentreKernel(dimension, SETTINGS)
    return PairWork(twins.lanes_of_centres(lanes), negatives, SETTINGS, (0, nodes), kernel)


@pytest.mark.parametrize("dimension", [7, 16, 64])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", SESSIONS)
def test_centres_are_their_pairs_with_the_same_negatives(
    name: str, compiled: bool, dimension: int
) -> None:
    nodes, lanes, window = SESSIONS[name]
    centres = [(lane, twins.centres_of(sequences, window)) for lane, sequences in lanes]
    work = pairs(centres, twins.sampler([1] * nodes), nodes, dimension if compiled else None)
    check_intra(work, centres, twins.random_tables(nodes, dimension, scale=2 / dimension**0.5))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_centre_with_repeated_contexts_and_one_without_any(compiled: bool) -> None:
    centres: list[tuple[int, Centres]] = [(2, [(0, [1, 1, 1, 3]), (4, []), (1, [0])])]
    check_intra(
        pairs(centres, twins.sampler([1] * 5), 5, 4 if compiled else None),
        centres,
        twins.random_tables(5, 4),
    )


@pytest.mark.parametrize("compiled", [False, True])
def test_a_centre_with_more_contexts_than_a_slice_holds(compiled: bool) -> None:
    hub = random_sessions([5000], 300)[0]
    centres: list[tuple[int, Centres]] = [
        (0, [(1, hub), *((node, [node + 1, node + 2]) for node in range(60))])
    ]
    check_intra(
        pairs(centres, twins.sampler([1] * 300), 300, 4 if compiled else None),
        centres,
        twins.random_tables(300, 4),
    )


def test_the_kernel_of_centres_keeps_nothing_from_one_call_to_the_next() -> None:
    _, lanes, window = SESSIONS["several lanes"]
    many = pairs(
        [(lane, twins.centres_of(sequences, window)) for lane, sequences in lanes],
        twins.sampler([1] * 30),
        30,
        4,
    )
    few = pairs([(0, [(0, [1, 2]), (2, [])])], twins.sampler([1] * 3), 3, 4)
    first = twins.evaluate(many, twins.random_tables(30, 4))
    twins.evaluate(few, twins.random_tables(3, 4))
    again = twins.evaluate(many, twins.random_tables(30, 4))
    assert again.loss == first.loss
    assert torch.equal(again.gradient, first.gradient)


@pytest.mark.parametrize("dimension", [6, 16, 33])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("printed", [False, True])
@pytest.mark.parametrize("values", [1, 3, 40, 2000])
def test_relations_are_their_links_with_the_same_negatives(
    printed: bool, values: int, compiled: bool, dimension: int
) -> None:
    # As many items as values, so that tables, like the twin's, are two halves; those of 2000 fill
    # more than a slice.
    items, random = max(40, values), np.random.default_rng(2)
    linked = [
        np.unique(random.integers(0, values, random.integers(1, 4))).tolist() for _ in range(items)
    ]
    linked[7] = []
    lanes: list[tuple[int, Centres]] = [
        (0, list(enumerate(linked))[:11]),
        (3, list(enumerate(linked))[11:]),
    ]
    counts = [1] * values + [0] * (items - values)
    tables = twins.random_tables(items, dimension)
    matrix = torch.randn(dimension, dimension, generator=torch.Generator().manual_seed(4))
    head = {"W": matrix, "t": torch.tensor(1.3), "b": torch.tensor(-0.8)}
    dense = {f"r.{name}": value for name, value in head.items()}
    kernel = CentreKernel(dimension, SETTINGS) if compiled else None
    work = RelationWork(
        "r",
        twins.lanes_of_centres(lanes),
        twins.sampler(counts),
        SETTINGS,
        (0, items),
        printed,
        kernel,
    )
    got = twins.evaluate(work, tables, SCALE, dense)

    batch = twins.expand_fast(lanes, twins.sampler(counts), SETTINGS, whole_row=True)
    leaves = [
        tables.double().requires_grad_(),
        *(value.double().requires_grad_() for value in head.values()),
    ]
    loss = twins.relation_loss(batch, leaves[0], dict(zip(head, leaves[1:], strict=True)), printed)
    wanted = torch.autograd.grad(loss, leaves, allow_unused=True)
    assert got.loss == pytest.approx(float(loss.detach()), rel=TOLERANCE)
    assert twins.relative_error(got.gradient, wanted[0] * SCALE) < TOLERANCE
    for name, slope in zip(head, wanted[1:], strict=True):
        expected = torch.zeros_like(head[name]) if slope is None else slope * SCALE
        assert twins.relative_error(got.dense[f"r.{name}"], expected) < TOLERANCE


def test_a_relation_shows_vectors_that_are_no_numbers() -> None:
    lanes: list[tuple[int, Centres]] = [(0, [(0, [2]), (1, [0])])]
    dense = RelationParameters("r", 4, SETTINGS.negatives, seed=1).start()
    for row in (1, 3):
        tables = twins.random_tables(3, 4)
        tables[row, 0] = float("nan")
        work = RelationWork(
            "r",
            twins.lanes_of_centres(lanes),
            twins.sampler([1] * 3),
            SETTINGS,
            (0, 3),
            False,
            CentreKernel(4, SETTINGS),
        )
        assert np.isnan(twins.evaluate(work, tables, dense=dense).loss)


def expectation(
    batch: Expanded, negatives: int, noise: np.ndarray, tables: Tensor, exclude: bool
) -> float:
    """Eq. 3 with k times the expected negative term of every pair; `exclude`: its own context is
    never its negative."""
    tables = tables.double()
    inputs, outputs = torch.chunk(tables, 2)
    total = 0.0
    for centre, context in batch.positive:
        total += float(F.softplus(-inputs[centre] @ outputs[context]))
        for node, probability in enumerate(noise):
            if not (exclude and node == context):
                total += negatives * probability * float(F.softplus(inputs[centre] @ outputs[node]))
    return total


@pytest.mark.parametrize(
    "kind", ["windows", "compiled windows", "pairs", "compiled pairs", "exact", "compiled exact"]
)
def test_the_mean_over_draws_is_equation_3_with_a_true_context_never_its_own_negative(
    kind: str,
) -> None:
    counts, window, draws = [8, 1, 3, 0, 2], 2, 1500
    sequences = [[0, 1, 0, 2, 4], [0, 0, 2]]
    tables = twins.random_tables(5, 4, scale=1.5)
    centres = [(0, twins.centres_of(sequences, window))]

    def work(step: int) -> Work:
        negatives = twins.sampler(counts, step=step)
        if kind.endswith("exact"):
            kernel = ExactKernel(4, SETTINGS.negatives) if kind.startswith("compiled") else None
            return ExactIntraWork(
                twins.lanes_of_sequences([(0, sequences)]),
                window,
                negatives,
                SETTINGS.negatives,
                (0, 5),
                kernel,
            )
        if kind.endswith("pairs"):
            return pairs(centres, negatives, 5, 4 if kind == "compiled pairs" else None)
        return windows(
            [(0, sequences)], window, negatives, 5, 4 if kind == "compiled windows" else None
        )

    losses = np.array([twins.evaluate(work(step), tables).loss for step in range(draws)])
    noise = np.array(counts) ** 0.75
    batch = twins.expand_fast(centres, twins.sampler(counts), SETTINGS, whole_row=False)
    expected = expectation(batch, SETTINGS.negatives, noise / noise.sum(), tables, exclude=True)
    error = losses.std() / np.sqrt(draws)
    assert error < 0.01 * expected
    assert abs(losses.mean() - expected) < 4 * error
    # The tolerance can tell: counting a true context among the negatives would be far outside.
    naive = expectation(batch, SETTINGS.negatives, noise / noise.sum(), tables, exclude=False)
    assert abs(naive - expected) > 8 * error


@pytest.mark.parametrize("kind", ["fast", "compiled", "exact", "compiled exact"])
def test_the_mean_over_draws_of_a_relation_masks_every_linked_value(kind: str) -> None:
    counts, draws = [5, 1, 2, 2, 1], 1500
    lanes: list[tuple[int, Centres]] = [(0, [(0, [0, 2]), (1, [1]), (2, [0, 3, 4])])]
    tables = twins.random_tables(5, 4, scale=1.5)
    dense = RelationParameters("r", 4, SETTINGS.negatives, seed=1).start()

    def work(step: int) -> Work:
        rows, negatives = twins.lanes_of_centres(lanes), twins.sampler(counts, step=step)
        if kind.endswith("exact"):
            exact_kernel = (
                ExactKernel(4, SETTINGS.negatives) if kind.startswith("compiled") else None
            )
            return ExactRelationWork(
                "r", rows, negatives, SETTINGS.negatives, (0, 5), printed=False, kernel=exact_kernel
            )
        kernel = CentreKernel(4, SETTINGS) if kind == "compiled" else None
        return RelationWork("r", rows, negatives, SETTINGS, (0, 5), printed=False, kernel=kernel)

    losses = np.array(
        [twins.evaluate(work(step), tables, dense=dense).loss for step in range(draws)]
    )
    noise = np.array(counts) ** 0.75 / (np.array(counts) ** 0.75).sum()
    negative = [
        (centre, value, SETTINGS.negatives * len(linked) * float(noise[value]))
        for centre, linked in lanes[0][1]
        for value in range(5)
        if value not in linked
    ]
    positive = [(centre, value) for centre, linked in lanes[0][1] for value in linked]
    head = {name: dense[f"r.{name}"].double() for name in "Wtb"}
    expected = float(
        twins.relation_loss(Expanded(positive, negative), tables.double(), head, printed=False)
    )
    error = losses.std() / np.sqrt(draws)
    assert error < 0.01 * expected
    assert abs(losses.mean() - expected) < 4 * error


def test_what_a_chunk_holds_does_not_depend_on_the_other_lanes() -> None:
    nodes, lanes, window = SESSIONS["several lanes"]
    tables, negatives = twins.random_tables(nodes, 7), twins.sampler([1] * nodes)
    together = twins.evaluate(windows(lanes, window, negatives, nodes), tables)
    apart = [twins.evaluate(windows([lane], window, negatives, nodes), tables) for lane in lanes]
    assert together.loss == pytest.approx(sum(part.loss for part in apart), rel=TOLERANCE)
    assert (
        twins.relative_error(
            together.gradient, sum((part.gradient for part in apart), torch.zeros_like(tables))
        )
        < TOLERANCE
    )


def test_window_pairs_are_counted_without_expanding() -> None:
    lengths = np.arange(0, 30)
    for window in (1, 3, 9):
        counted = [
            sum(len(contexts) for _, contexts in twins.centres_of([list(range(length))], window))
            for length in lengths
        ]
        assert window_pairs(lengths, window).tolist() == counted
