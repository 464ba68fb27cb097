"""Task weights: eq. 10's fixed point, the floor, fixed weights, the cap, and what a weight can
change at all."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer import twins
from tests.trainer.runs import Recorder, build, one_step, work
from tests.trainer.shards import Corpus, random_corpus, write_shards
from trainer.config import Train, TrainConfigError
from trainer.embeddings.keys import Table
from trainer.embeddings.optimisers import DenseAdam
from trainer.objective.weighting import LOG_VARIANCE, Weighting, make_weighting

TASKS = ["item", "category", "item_category"]
FLOOR = 0.05


def adaptive(**settings: Any) -> tuple[Weighting, dict[str, Tensor]]:
    return make_weighting(Train(**settings), TASKS, ["item_category"])


def settle(
    weighting: Weighting,
    dense: dict[str, Tensor],
    losses: list[float],
    steps: int = 1500,
    first: int = 0,
) -> list[float]:
    """sigma^2 after learning it against constant losses."""
    optimiser = DenseAdam(dense)
    for step in range(first, first + steps):
        optimiser.update(dense, weighting.gradients(dense, losses), step, 0.01)
        weighting.project(dense)
    return torch.exp(dense[LOG_VARIANCE]).tolist()


def test_sigma2_settles_at_the_mean_loss_or_at_its_floor() -> None:
    weighting, dense = adaptive(relation_weight_cap=math.inf)
    assert settle(weighting, dense, [2.4, 0.3, 0.01]) == pytest.approx([2.4, 0.3, FLOOR], rel=1e-3)
    assert weighting.weights(dense) == pytest.approx([1 / 2.4, 1 / 0.3, 1 / FLOOR], rel=1e-3)


def test_a_task_comes_back_from_the_floor() -> None:
    """A clamp inside the graph would leave it there: no gradient."""
    weighting, dense = adaptive()
    assert settle(weighting, dense, [1.0, 1.0, -3.0])[2] == pytest.approx(FLOOR)
    assert settle(weighting, dense, [1.0, 1.0, 0.7])[2] == pytest.approx(0.7, rel=0.01)


def test_a_task_without_pairs_in_a_step_does_not_move_sigma2() -> None:
    weighting, dense = adaptive()
    gradient = weighting.gradients(dense, [2.0, math.nan, 0.5])[LOG_VARIANCE]
    # d/ds (L exp(-s) + s) at s = 0 is 1 - L.
    assert gradient.tolist() == [-1.0, 0.0, 0.5]


def test_with_frozen_tables_sigma2_of_every_task_is_its_mean_loss(tmp_path: Path) -> None:
    write_shards(tmp_path, random_corpus())
    model, tasks = build(tmp_path, learning_rate=1e-20, dense_learning_rate=0.03, batch_pairs=1200)
    # W, t and b stay too: only sigma is learned.
    frozen = {name: value.clone() for name, value in model.dense.items() if name != LOG_VARIANCE}
    losses = []
    for step in range(220):
        losses.append(one_step(model, tasks, step).losses)
        for name, value in frozen.items():
            model.dense[name].copy_(value)
    expected = torch.tensor(losses[120:], dtype=torch.float64).nanmean(0)
    assert torch.allclose(torch.exp(model.dense[LOG_VARIANCE]).double(), expected, rtol=0.03)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"weighting": "uniform"}, [1, 1, 1]),
        ({"weighting": "static"}, [0.05, 1, 1]),
        (
            {"weighting": "given", "weights": {"item_category": 3, "item": 1, "category": 2}},
            [1, 2, 3],
        ),
    ],
)
def test_fixed_weights(settings: dict[str, Any], expected: list[float]) -> None:
    weighting, dense = adaptive(**settings)
    assert weighting.weights(dense) == expected
    assert weighting.gradients(dense, [1.0, 1.0, 1.0]) == {} == dense
    weighting.project(dense)


def test_the_cap_binds_a_relation_and_no_view() -> None:
    weighting, dense = adaptive(relation_weight_cap=2.0)
    dense[LOG_VARIANCE] = torch.log(torch.tensor([0.5, 0.1, 0.1]))
    assert weighting.weights(dense) == pytest.approx([2, 10, 4])
    dense[LOG_VARIANCE] = torch.log(torch.tensor([0.5, 0.1, 1.0]))
    assert weighting.weights(dense) == pytest.approx([2, 10, 1])


@pytest.mark.parametrize(
    "weights", [{"item": 1}, {"item": 1, "category": 1, "item_category": 1, "shop": 1}]
)
def test_given_weights_must_name_every_task_once(weights: dict[str, float]) -> None:
    with pytest.raises(TrainConfigError, match=r"train\.weights names"):
        adaptive(weighting="given", weights=weights)


@pytest.mark.parametrize("step", ["fast", "exact"])
def test_a_step_follows_the_weighted_sum_of_the_tasks_mean_losses(
    tmp_path: Path, step: str
) -> None:
    write_shards(tmp_path, random_corpus())
    weights = {"item": 0.5, "category": 2.0, "shop": 1.0, "item_category": 3.0, "item_shop": 0.25}
    model, tasks = build(tmp_path, step=step, mixing="repeat", weighting="given", weights=weights)
    tables = torch.randn(model.tables.values.shape, generator=torch.Generator().manual_seed(1))
    model.tables.values.copy_(tables)
    recorder = Recorder.of(model)
    result = one_step(model, tasks, 0)
    got = torch.zeros_like(tables)
    got[recorder.touched] = recorder.rows
    expected, dense = (
        torch.zeros_like(tables),
        {name: torch.zeros_like(value) for name, value in model.dense.items()},
    )
    for task, loss in zip(tasks, result.losses, strict=True):
        share = work(task, 0)
        assert share is not None
        alone = twins.evaluate(share, tables, weights[task.name] / share.pairs, model.dense)
        assert loss == pytest.approx(alone.loss / share.pairs)
        expected += alone.gradient
        for name, slope in alone.dense.items():
            dense[name] += slope
    assert torch.allclose(got, expected, atol=1e-7)
    for name, slope in dense.items():
        assert torch.allclose(recorder.dense[name], slope, atol=1e-7)


def moved_rows(
    shards: Path, optimiser: str, weights: dict[str, float]
) -> tuple[list[Table], Tensor, dict[str, set[int]]]:
    """(tables, every row's move in one step from random tables, keys that each task reads)."""
    model, tasks = build(
        shards,
        optimiser=optimiser,
        learning_rate=0.01,
        weighting="given",
        weights=weights,
        mixing="repeat",
        chunk_negatives=2,
    )
    model.tables.values.copy_(
        torch.randn(model.tables.values.shape, generator=torch.Generator().manual_seed(1))
    )
    before = model.tables.values.clone()
    works = [work(task, 0) for task in tasks]
    read = {
        task.name: set(share.keys.tolist())
        for task, share in zip(tasks, works, strict=True)
        if share
    }
    model.step(works, 0, 1.0)
    return list(model.tables.keys.tables), model.tables.values - before, read


@pytest.mark.parametrize(
    ("optimiser", "rounding", "part"), [("adagrad", 1e-4, 0.9), ("adam", 0.1, 0.1)]
)
def test_a_weight_changes_a_step_only_where_tasks_share_rows(
    tmp_path: Path, optimiser: str, rounding: float, part: float
) -> None:
    """Adam's and Adagrad's steps do not depend on a constant scale of all of a row's gradients, as
    far as these are above epsilon.

    So a row that one task alone reads moves by the same vector whatever the task's weight. A row
    that several tasks read (always an input row) moves in another direction; in Adam's first step,
    the signs of its gradient times the rate, only where a sign changes.
    """
    corpus = random_corpus(items=200)
    corpus.links = {"item_category": corpus.links["item_category"]}
    del corpus.views["shop"]
    write_shards(tmp_path, corpus)
    _, one, read = moved_rows(
        tmp_path, optimiser, {"item": 1.0, "category": 1.0, "item_category": 1.0}
    )
    tables, other, _ = moved_rows(
        tmp_path, optimiser, {"item": 0.05, "category": 5.0, "item_category": 3.0}
    )
    of = [key for keys in read.values() for key in keys]
    alone, shared = (
        [key for key in set(of) if of.count(key) == 1],
        [key for key in set(of) if of.count(key) > 1],
    )
    sides = {
        key: table.side
        for table in tables
        for key in range(table.offset, table.offset + table.rows)
    }
    assert {sides[key] for key in shared} == {"input"}
    assert {sides[key] for key in alone} == {"input", "output"}
    apart = (one - other).abs().amax(1) / one.abs().amax(1).clamp(min=1e-9)
    assert apart[alone].max() < rounding
    assert (apart[shared] > 2 * rounding).float().mean() > part


def test_without_relations_weights_change_nothing_in_a_whole_run(tmp_path: Path) -> None:
    """No two tasks share a row, so no weight that stays constant matters."""
    corpus = random_corpus()
    write_shards(
        tmp_path, Corpus({view: corpus.views[view] for view in ("item", "category")}, corpus.nodes)
    )
    tables = []
    for weights in ({"item": 1.0, "category": 1.0}, {"item": 0.05, "category": 3.0}):
        model, tasks = build(tmp_path, weighting="given", weights=weights)
        for step in range(8):
            one_step(model, tasks, step)
        tables.append(model.tables.values)
    assert tables[0].abs().max() > 0.1
    assert torch.allclose(tables[0], tables[1], atol=1e-4)
