"""Optimisers against torch's own and by hand, and clipping over all summed gradients."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.trainer.runs import Recorder, build, one_step, work
from tests.trainer.shards import random_corpus, write_shards
from trainer.embeddings.optimisers import (
    AdagradKernel,
    DenseAdam,
    RowAdagrad,
    RowAdam,
    RowOptimiser,
    shorten,
)

ROWS, DIMENSION, RATE = 12, 5, 0.03
TOUCHED = [[0, 3, 4], [3], [11, 0], [2, 3, 5, 6], [0]]


def gradients(seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.tensor(rows), torch.randn(len(rows), DIMENSION, generator=generator))
        for rows in TOUCHED
    ]


def test_adam_is_sparse_adam() -> None:
    """The step count is global; a row untouched for some steps goes on with the state it had.

    torch adds epsilon before its bias correction, Kingma and Ba's algorithm 1 (ours) after it:
    equal to 1e-6 for gradients of size 1.
    """
    values = torch.randn(ROWS, DIMENSION, generator=torch.Generator().manual_seed(1))
    twin = torch.nn.Parameter(values.clone())
    ours, theirs = RowAdam(ROWS, DIMENSION), torch.optim.SparseAdam([twin], lr=RATE)
    for step, (rows, gradient) in enumerate(gradients()):
        ours.update(values, rows, gradient, step, RATE)
        twin.grad = torch.sparse_coo_tensor(
            rows.unsqueeze(0), gradient, (ROWS, DIMENSION), check_invariants=True
        )
        theirs.step()  # type: ignore[no-untyped-call]
        assert torch.allclose(values, twin.detach(), atol=1e-6)


def test_dense_adam_is_adam() -> None:
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    twin = torch.nn.Parameter(values.clone())
    parameters = {"W": values}
    ours, theirs = DenseAdam(parameters), torch.optim.Adam([twin], lr=RATE)
    for step in range(20):
        twin.grad = torch.randn(3, 4, generator=torch.Generator().manual_seed(step))
        ours.update(parameters, {"W": twin.grad}, step, RATE)
        theirs.step()
        assert torch.allclose(values, twin.detach(), atol=1e-6)


def test_vectors_are_shortened_by_a_share_and_then_to_the_longest() -> None:
    # Rows of every second row of a table, as a rank's lie among those of others.
    values = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [6.0, 8.0]]).repeat_interleave(2, 0)[
        ::2
    ]
    shorten(values, torch.tensor([0, 1, 2]), 0.1, 2.0)
    assert torch.allclose(values, torch.tensor([[1.2, 1.6], [0.27, 0.36], [0.0, 0.0], [6.0, 8.0]]))
    shorten(values, torch.tensor([3]), 0.5, None)
    assert torch.equal(values[3], torch.tensor([3.0, 4.0]))


@pytest.mark.parametrize("decay", ["none", "linear"])
def test_a_step_shortens_what_it_touches_after_the_update(tmp_path: Path, decay: str) -> None:
    write_shards(tmp_path, random_corpus())
    settings = {"weight_decay": 0.2, "max_norm": 0.03}
    plain, shortened = (build(tmp_path, **given)[0] for given in ({}, settings))
    _, tasks = build(tmp_path)
    works = [work(task, 0) for task in tasks]
    for model in (plain, shortened):
        model.step(works, 0, 0.5 if decay == "linear" else 1.0)
    touched = torch.cat([share.keys for share in works if share is not None]).unique()
    assert 0 < len(touched) < len(plain.tables.values)
    shorten(plain.tables.values, touched, 0.1 if decay == "linear" else 0.2, 0.03)
    assert torch.equal(shortened.tables.values, plain.tables.values)
    assert float(shortened.tables.values[touched].norm(dim=1).max()) == pytest.approx(0.03)


def test_row_wise_adagrad_by_hand() -> None:
    values, optimiser = torch.zeros(2, 2), RowAdagrad(2)
    optimiser.update(values, torch.tensor([1]), torch.tensor([[3.0, 1.0]]), 0, 0.1)
    # Mean square 5: the row moves by 0.1 / sqrt(5) of its gradient.
    assert torch.allclose(values[1], torch.tensor([-0.3, -0.1]) / 5**0.5)
    optimiser.update(values, torch.tensor([1]), torch.tensor([[2.0, 0.0]]), 1, 0.1)
    # Mean square 5 + 2.
    assert torch.allclose(
        values[1], torch.tensor([-0.3, -0.1]) / 5**0.5 + torch.tensor([-0.2, 0.0]) / 7**0.5
    )
    assert optimiser.state["square_sum"].tolist() == [0, 7]


@pytest.mark.parametrize("dimension", [5, 64])
@pytest.mark.parametrize("ranks", [1, 3])
def test_compiled_row_wise_adagrad_is_its_twin(ranks: int, dimension: int) -> None:
    """Also where a rank's rows stand between those of others."""
    generator = torch.Generator().manual_seed(1)
    whole = torch.randn(ranks * ROWS, dimension, generator=generator)
    start, ours, theirs = (
        whole.clone(),
        RowAdagrad(ROWS, AdagradKernel(dimension)),
        RowAdagrad(ROWS),
    )
    values, twin = whole[ranks - 1 :: ranks], whole[ranks - 1 :: ranks].clone()
    for step, (rows, _) in enumerate(gradients()):
        gradient = torch.randn(len(rows), dimension, generator=generator)
        ours.update(values, rows, gradient, step, RATE, 0.5)
        theirs.update(twin, rows, gradient, step, RATE, 0.5)
        assert torch.allclose(values, twin, rtol=1e-5, atol=1e-7)
        assert torch.allclose(ours.state["square_sum"], theirs.state["square_sum"], rtol=1e-5)
    others = torch.arange(ranks * ROWS) % ranks != ranks - 1
    assert torch.equal(whole[others], start[others])


def test_a_first_gradient_of_zero_moves_nothing() -> None:
    values, optimiser = torch.ones(1, 3), RowAdagrad(1)
    optimiser.update(values, torch.tensor([0]), torch.zeros(1, 3), 0, 0.1)
    assert values.tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("optimiser", [RowAdagrad(ROWS), RowAdam(ROWS, DIMENSION)])
def test_rows_that_a_step_does_not_touch_do_not_move_and_keep_their_state(
    optimiser: RowOptimiser,
) -> None:
    values = torch.ones(ROWS, DIMENSION)
    for step, (rows, gradient) in enumerate(gradients()):
        before, state = (
            values.clone(),
            {name: value.clone() for name, value in optimiser.state.items()},
        )
        optimiser.update(values, rows, gradient, step, RATE)
        still = [row for row in range(ROWS) if row not in TOUCHED[step]]
        assert torch.equal(values[still], before[still])
        assert all(
            torch.equal(optimiser.state[name][still], kept[still]) for name, kept in state.items()
        )
        assert (values[TOUCHED[step]] != before[TOUCHED[step]]).any(dim=1).all()


@pytest.mark.parametrize("clip_norm", [None, 0.1, 1e6])
def test_the_norm_of_all_gradients_together_is_clipped(
    tmp_path: Path, clip_norm: float | None
) -> None:
    """All tables and all dense parameters shrink by one factor; within the norm nothing changes."""

    def gradients_of(clip: float | None) -> Tensor:
        model, tasks = build(tmp_path, clip_norm=clip)
        recorder = Recorder.of(model)
        one_step(model, tasks, 0)
        return torch.cat(
            [recorder.rows.reshape(-1), *(slope.reshape(-1) for slope in recorder.dense.values())]
        )

    write_shards(tmp_path, random_corpus())
    free, clipped = gradients_of(None), gradients_of(clip_norm)
    assert 0.1 < free.norm() < 1e6
    expected = free * 0.1 / free.norm() if clip_norm == 0.1 else free
    assert torch.allclose(clipped, expected, rtol=1e-5, atol=1e-9)
