"""The counts of virtual ranks are what real ranks send."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from pipeline.manifest import read_manifest
from tests.bench import exchange
from tests.bench.exchange import Options, bytes_of, counted, expected_rows, wanted
from tests.trainer.runs import on_ranks
from tests.trainer.shards import random_corpus, write_shards
from trainer.comm import Comm
from trainer.config import Train
from trainer.model import M2GRL
from trainer.tables import ScatteredTables
from trainer.tasks import TaskFactory

STEPS = 3


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, random_corpus())
    return folder


@pytest.mark.parametrize("ranks", [2, 3])
def test_what_is_counted_is_what_ranks_send(shards: Path, ranks: int) -> None:
    """By noting what goes to other ranks in the alltoalls of a real step."""
    batch = 1500
    train = Train(batch_pairs=batch * ranks, lanes=16, epochs=10_000)

    def sent(comm: Comm) -> list[int]:
        factory = TaskFactory(shards, read_manifest(shards), train, 1, comm)
        tasks = factory.tasks()
        model = M2GRL(train, factory.keys, [task.name for task in tasks], list(factory.manifest.relations), 1, comm)
        assert isinstance(model.tables, ScatteredTables)
        found, alltoall = [0] * STEPS, comm.alltoall

        def noting(tensor: Tensor, splits: Sequence[int], name: str) -> Any:
            elsewhere = sum(splits) - splits[comm.rank]
            found[step] += elsewhere * tensor[:1].numel() * tensor.element_size()
            return alltoall(tensor, splits, name)

        comm.alltoall = noting  # type: ignore[method-assign]
        for step in range(STEPS):
            model.step([task.build(task.read(step), step) for task in tasks], step, 1.0)
        return found

    real = np.array(on_ranks(ranks, sent)).sum(0)
    options = Options(shards=shards, batch_pairs=batch, steps=STEPS, alone=False)
    virtual = np.zeros(STEPS)
    for number, one in enumerate(wanted(shards, options, ranks)):
        # What is wanted of the others is sent by them: over all ranks the same.
        virtual[number % STEPS] += bytes_of(one.elsewhere, train.dimension)
    assert virtual.tolist() == real.tolist()
    assert real.min() > 0


def test_one_rank_sends_nothing(shards: Path) -> None:
    found = counted(shards, Options(shards=shards, batch_pairs=1500, steps=STEPS), 1)
    assert found["elsewhere"] == 0
    assert found["bytes_a_pair"] == 0
    assert found["to_one_rank"] == pytest.approx(1)


def test_the_formula_is_the_mean_of_independent_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    counts = np.array([50.0, 20, 10, 5, 1, 0])
    p, q = counts / counts.sum(), counts**0.75 / (counts**0.75).sum()
    rows = []
    for _ in range(4000):
        tokens, negatives = random.choice(6, 9, p=p), random.choice(6, 4, p=q)
        rows.append(len(set(tokens)) + len({*tokens, *negatives}))
    monkeypatch.setattr(exchange, "PART", 2)
    assert expected_rows(counts, 0.75, 9, 4) == pytest.approx(np.mean(rows), abs=4 * np.std(rows) / 4000**0.5)
