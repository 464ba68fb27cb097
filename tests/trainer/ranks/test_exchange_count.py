"""The counts of virtual ranks are what real ranks send."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from pipeline.contracts.shards import Manifest
from tests.bench.exchange import (
    Options,
    VirtualComm,
    by_formula,
    count,
    counted,
    settings,
    zipf_case,
)
from tests.bench.exchange_formula import (
    Drawn,
    Draws,
    Machine,
    Relation,
    View,
    expected_rows,
    wanted_rows,
    zipf,
)
from tests.trainer.runs import on_ranks, work
from tests.trainer.shards import random_corpus, write_shards
from trainer.embeddings.tables import ScatteredTables
from trainer.model import M2GRL
from trainer.objective.tasks import Task, TaskFactory
from trainer.ranks.comm import Comm

BATCH, STEPS = 1500, 3


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, random_corpus())
    return folder


def options(shards: Path, **others: Any) -> Options:
    return Options(
        **{"shards": shards, "batch_pairs": BATCH, "steps": STEPS, "alone": False, **others}
    )


@pytest.mark.parametrize("ranks", [2, 3])
def test_what_is_counted_is_what_ranks_send(shards: Path, ranks: int) -> None:
    """By noting what each rank sends to others in each alltoall of real steps, as HorovodComm
    counts it."""
    train = settings(options(shards), ranks)

    def sent(comm: Comm) -> dict[str, list[int]]:
        factory = TaskFactory(shards, Manifest.read(shards), train, 1, comm)
        tasks = factory.tasks()
        model = M2GRL(train, factory.keys, tasks, comm)
        assert isinstance(model.tables, ScatteredTables)
        found: dict[str, list[int]] = {}
        alltoall = comm.alltoall

        def noting(tensor: Tensor, splits: Sequence[int], name: str) -> Any:
            elsewhere = sum(splits) - splits[comm.rank]
            found.setdefault(name, [0] * STEPS)[step] += (
                elsewhere * tensor[:1].numel() * tensor.element_size()
            )
            return alltoall(tensor, splits, name)

        comm.alltoall = noting  # type: ignore[method-assign]
        for step in range(STEPS):
            model.step([task.build(task.read(step), step) for task in tasks], step, 1.0)
        return found

    real = on_ranks(ranks, sent)
    virtual = count(shards, options(shards), ranks).sent(train.dimension)
    assert set(virtual) == set(real[0])
    for name, bytes_ in virtual.items():
        assert bytes_.T.tolist() == [one[name] for one in real]
        assert bytes_.min() > 0


def test_what_is_sent_by_listing_keys(shards: Path) -> None:
    """Two ranks: every key that one wants of the other is a key there, a row back and a gradient
    there, in plain Python."""
    asked = options(shards)
    train = settings(asked, 2)
    tasks = [
        TaskFactory(shards, Manifest.read(shards), train, 1, VirtualComm(rank, 2)).tasks()
        for rank in range(2)
    ]
    sent = {
        name: part.tolist() for name, part in count(shards, asked, 2).sent(train.dimension).items()
    }
    for step in range(STEPS):
        for rank, other in ((0, 1), (1, 0)):
            mine, theirs = wanted_keys(tasks[rank], step), wanted_keys(tasks[other], step)
            asks = [key for key in mine if key % 2 == other]
            asked_for = [key for key in theirs if key % 2 == rank]
            assert sent["input-dist"][step][rank] == sum(8 for _ in asks)
            assert sent["output-dist"][step][rank] == sum(
                4 for _ in asked_for for _ in range(train.dimension)
            )
            assert sent["gradients"][step][rank] == sum(
                4 for _ in asks for _ in range(train.dimension)
            )


def wanted_keys(tasks: list[Task], step: int) -> set[int]:
    return {
        key for task in tasks if (one := work(task, step)) is not None for key in one.keys.tolist()
    }


def test_one_rank_sends_nothing(shards: Path) -> None:
    found = counted(shards, options(shards), 1)
    assert found["elsewhere"] == 0
    assert found["bytes_a_pair"] == found["formula_bytes_a_pair"] == 0
    assert found["to_one_rank"] == pytest.approx(1)


@pytest.mark.parametrize("alone", [True, False])
def test_the_formula_is_near_the_counts(tmp_path: Path, alone: bool) -> None:
    """Sessions of evenly drawn items, of which a step wants a part."""
    write_shards(tmp_path, random_corpus(items=400, sessions=800))
    found = counted(tmp_path, options(tmp_path, alone=alone), 2)
    assert 200 < found["rows"] < 750
    assert found["formula_off"] == pytest.approx(0, abs=0.02)


def test_the_formula_is_the_mean_of_independent_draws() -> None:
    random = np.random.default_rng(2)
    clicks = np.array([50.0, 20, 10, 5, 1, 0])
    p, q = clicks / clicks.sum(), clicks**0.75 / (clicks**0.75).sum()
    rows = [len({*random.choice(6, 9, p=p), *random.choice(6, 4, p=q)}) for _ in range(4000)]
    found = expected_rows(np.ones(6), [Draws(9, clicks), Draws(4, clicks**0.75)])
    assert found == pytest.approx(np.mean(rows), abs=4 * np.std(rows) / 4000**0.5)


def test_the_formula_of_two_views_and_a_relation_by_hand() -> None:
    """One draw each: tokens of both views, one link, no negatives that could add to a table of one
    node."""
    views = {"item": View(np.ones(4), np.ones(4)), "shop": View(np.ones(1), np.ones(1))}
    relations = {"item_shop": Relation("shop", np.array([1.0, 1, 0, 0]), np.ones(1))}
    drawn = {"item": Drawn(1, 1, 1), "shop": Drawn(1, 1, 1), "item_shop": Drawn(1, 1, 1)}
    item_input = 2 * (1 - 3 / 4 * 1 / 2) + 2 * (
        1 - 3 / 4
    )  # a token of four, and a centre of the two that are linked
    item_output = 4 * (1 - (3 / 4) ** 2)  # a token and a negative
    assert wanted_rows(views, relations, drawn, 0.75) == pytest.approx(
        item_input + item_output + 1 + 1
    )


@pytest.mark.parametrize("exponent", [0.8, 1.0, 1.2])
def test_bins_of_a_zipf_view_stand_for_its_nodes(exponent: float) -> None:
    nodes, tokens = 300_000, 20_000.0
    one_by_one = View(np.ones(nodes), np.arange(1.0, nodes + 1) ** -exponent)
    bins = zipf(nodes, exponent)
    assert bins.nodes.sum() == nodes
    assert len(bins.nodes) < nodes / 10
    rows = [
        expected_rows(view.nodes, [Draws(tokens, view.clicks), Draws(tokens, view.clicks**0.75)])
        for view in (one_by_one, bins)
    ]
    assert rows[1] == pytest.approx(rows[0], rel=1e-5)


def test_a_small_zipf_view_is_not_binned() -> None:
    assert zipf(3).nodes.tolist() == [1, 1, 1]
    assert zipf(3).clicks.tolist() == [1, 1 / 2, 1 / 3]


def test_a_step_takes_as_long_as_its_parts() -> None:
    machine = Machine(pairs_per_s=1000, bandwidth=100, latency=0.5)
    assert machine.step_seconds(2000, 50, 2) == 2 + 0.5 + 5 * 0.5
    assert machine.step_seconds(2000, 0, 1) == 2


def test_all_tasks_of_a_vocabulary_of_a_size() -> None:
    """Of 5 M pairs the links of two relations take 1 M each, and each view has 1 M; almost every
    link wants an item's row of its own."""
    asked = Options(
        zipf_items=1_000_000,
        zipf_shops=1000,
        zipf_categories=10,
        batch_pairs=10_000,
        pass_pairs=5e6,
    )
    pairs, rows = zipf_case(asked)
    assert pairs == 10_000
    all_pairs, all_rows = zipf_case(replace(asked, alone=False))
    assert (
        all_pairs == 3 * 10_000 + 2 * 10_000
    )  # as many links of each relation as item pairs: 1 M of a pass
    assert rows + 2 * 9000 < all_rows < rows + 2 * 10_000 + 2 * (1000 + 10)
    assert len(list(by_formula(replace(asked, ranks=(1, 8))))) == 3
