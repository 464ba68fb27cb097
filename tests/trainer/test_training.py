"""Whole runs on one rank: what is recorded, what stops a run, and which projects can be trained."""

import errno
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.contracts.sealed import ManifestError, check_file
from pipeline.contracts.shards import Manifest
from tests.trainer.runs import SEED, SMALL, build, on_ranks, one_step
from tests.trainer.shards import Corpus, random_corpus, write_shards
from trainer.checkpoints import files
from trainer.config import Train, TrainConfigError
from trainer.model import M2GRL, StepResult, TrainingError
from trainer.objective.tasks import Task
from trainer.phases import PHASES
from trainer.ranks.comm import Comm, LocalComm
from trainer.training import CHECKPOINTS, train

TASKS = ["item", "category", "shop", "item_category", "item_shop"]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(tmp_path / "shards", random_corpus())
    return tmp_path / "shards"


def run(shards: Path, **settings: Any) -> list[dict[str, Any]]:
    output = shards.parent / "model"
    train(shards, output, Train(**{**SMALL, **settings}), SEED, LocalComm())
    return [
        json.loads(line)
        for line in (output / "train.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_records_have_every_tasks_figures(shards: Path) -> None:
    records = run(shards, log_steps=4, epochs=1)
    pairs = {view: manifest_pairs(Manifest.read(shards), view) for view in TASKS}
    steps = math.ceil(pairs["item"] / SMALL["batch_pairs"])
    *progress, last = records
    assert [record["step"] for record in progress] == [*range(4, steps, 4), steps]
    assert progress[-1]["epoch"] == 1
    for record in progress:
        told = {
            "step",
            "epoch",
            "losses",
            "sigma2",
            "weights",
            "pairs",
            "pairs_per_s",
            "phases",
            "wait_exchange",
        }
        assert set(record) == {*told, "length_count_correlation", "memory_bytes"}
        for field in ("losses", "sigma2", "weights", "pairs"):
            assert list(record[field]) == TASKS
        assert record["pairs_per_s"] > 0
        assert set(record["phases"]) == set(PHASES)
    # An epoch passes once over every stream.
    assert {task: sum(record["pairs"][task] for record in progress) for task in TASKS} == pairs
    assert set(last) == {
        "step",
        "done",
        "length_count_correlation",
        "config",
        "seed",
        "ranks",
        "code_version",
    }
    assert last["config"]["dimension"] == 8
    assert (last["seed"], last["ranks"]) == (SEED, 1)
    assert -1 <= last["length_count_correlation"] <= 1


def manifest_pairs(manifest: Manifest, name: str) -> int:
    return (
        (manifest.views[name] if name in manifest.views else manifest.relations[name])
        .streams[0]
        .pairs
    )


def test_the_loss_of_a_task_is_the_mean_over_its_pairs(shards: Path) -> None:
    """At the start output vectors are 0: every term is log 2, one positive and at most k negatives
    a pair."""
    for step in ("fast", "exact"):
        model, tasks = build(shards, step=step, batch_pairs=1000, negatives=10, mixing="repeat")
        result = one_step(model, tasks, 0)
        # A node's own context is not its negative: of 60 items alike that is 1 draw in 60.
        assert result.losses[0] == pytest.approx(math.log(2) * (1 + 10 * 59 / 60), rel=0.02)
        assert result.losses[0] < math.log(2) * 11
        assert result.pairs[0] == pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize(
    ("decay", "rates"), [("none", [1, 1, 1, 1]), ("linear", [1, 0.75, 0.5, 0.25])]
)
def test_linear_decay_brings_the_rates_down_over_the_run(
    shards: Path, monkeypatch: pytest.MonkeyPatch, decay: str, rates: list[float]
) -> None:
    seen, step = [], M2GRL.step

    def noting(self: M2GRL, works: Any, number: int, rate: float, votes: Any) -> StepResult:
        seen.append(rate)
        return step(self, works, number, rate, votes)

    monkeypatch.setattr(M2GRL, "step", noting)
    pairs = manifest_pairs(Manifest.read(shards), "item")
    run(shards, decay=decay, epochs=2, batch_pairs=math.ceil(pairs / 2))
    assert seen == rates


def test_losses_fall(shards: Path) -> None:
    records = run(shards, epochs=6)
    for task in ("item", "category", "shop"):
        assert records[-2]["losses"][task] < 0.8 * records[0]["losses"][task]


@pytest.mark.parametrize(
    ("settings", "task"),
    [({"learning_rate": 1e30}, "item"), ({"step": "exact", "learning_rate": 1e30}, "item")],
)
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_task(
    shards: Path, settings: dict[str, Any], task: str
) -> None:
    with pytest.raises(
        TrainingError,
        match=(
            rf"step \d+: the loss of task '{task}' is (inf|nan).*; see rows .* \d+.*; lower "
            r"train\.learning_rate"
        ),
    ):
        run(shards, **settings)


def test_a_run_that_broke_goes_on_with_what_its_message_says(shards: Path) -> None:
    """From the last good checkpoint, with a lower rate and a clipped gradient."""
    run(shards, epochs=1)
    output = shards.parent / "model"
    with pytest.raises(
        TrainingError,
        match=(
            r"lower train\.learning_rate or set train\.clip_norm, and go on from the last "
            r"whole checkpoint with --resume"
        ),
    ):
        train(
            shards,
            output,
            Train(**{**SMALL, "epochs": 3, "learning_rate": 1e30}),
            SEED,
            LocalComm(),
            resume=True,
        )
    train(
        shards,
        output,
        Train(**{**SMALL, "epochs": 3, "learning_rate": 0.1, "clip_norm": 1.0}),
        SEED,
        LocalComm(),
        resume=True,
    )
    steps = files.read_checkpoint_manifest(files.newest_checkpoint(output / CHECKPOINTS)).step
    assert steps == 3 * math.ceil(
        manifest_pairs(Manifest.read(shards), "item") / SMALL["batch_pairs"]
    )


def test_ranks_that_were_told_different_things_do_not_start(shards: Path, tmp_path: Path) -> None:
    """Of hosts with copies of their own, one may be forgotten when a file changes."""
    write_shards(tmp_path / "others", random_corpus(items=61))
    run(shards)
    kept = files.whole_checkpoints(shards.parent / "model" / CHECKPOINTS)
    assert kept
    told = {"configuration": (shards, {"negatives": 3}), "set of shards": (tmp_path / "others", {})}
    for name, (folder, settings) in told.items():
        with pytest.raises(
            TrainConfigError,
            match=f"rank 1 has another {name} than rank 0; give every host the same files",
        ):
            on_ranks(
                2,
                lambda comm, folder=folder, settings=settings: train(
                    folder if comm.rank else shards,
                    shards.parent / "model",
                    Train(**{**SMALL, "exchange": "alltoall", **(settings if comm.rank else {})}),
                    SEED,
                    comm,
                ),
            )
    assert files.whole_checkpoints(shards.parent / "model" / CHECKPOINTS) == kept


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_row_that_is_not_finite_is_named_by_all_ranks_and_nothing_moves(
    shards: Path, ranks: int
) -> None:
    def broken(comm: Comm) -> tuple[str, bool]:
        model, tasks = build(shards, comm, batch_pairs=10**6)
        key = model.tables.keys.table("shop", "input").offset + 3
        if key % comm.size == comm.rank:
            model.tables.values[key // comm.size] = float("nan")
        before = model.tables.values.clone()
        with pytest.raises(TrainingError) as stopped:
            one_step(model, tasks, 0)
        return str(stopped.value), torch.equal(
            torch.nan_to_num(before), torch.nan_to_num(model.tables.values)
        )

    found = on_ranks(ranks, broken)
    message, still = found[0]
    assert still
    assert set(found) == {(message, True)}
    assert message.startswith(
        "step 0: the loss of task 'shop' is nan and the loss of task 'item_shop' is nan; see "
        "rows shop input 3; lower"
    )


def test_a_gradient_that_is_not_finite_is_named(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tasks = build(shards, batch_pairs=10**6)
    send_home = type(model.tables).send_home

    def overflow(self: Any, ticket: Any, gradient: torch.Tensor) -> Any:
        rows, home = send_home(self, ticket, gradient)
        home[rows == 7] = float("inf")
        return rows, home

    monkeypatch.setattr(type(model.tables), "send_home", overflow)
    with pytest.raises(
        TrainingError,
        match="step 0: all losses are finite, a gradient is not; see rows item input 7; lower",
    ):
        one_step(model, tasks, 0)


def test_a_gradient_of_a_dense_parameter_that_is_not_finite_moves_nothing(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tasks = build(shards, batch_pairs=10**6)
    reduce = type(model)._reduce

    def overflow(self: Any, losses: Any, slopes: Any, home: Any) -> Any:
        totals, slopes, square = reduce(self, losses, slopes, home)
        slopes["item_shop.W"][0, 0] = float("nan")
        return totals, slopes, square

    monkeypatch.setattr(type(model), "_reduce", overflow)
    before = {name: value.clone() for name, value in model.dense_tensors.items()}
    with pytest.raises(
        TrainingError,
        match=(
            r"step 0: all losses are finite, the gradient of item_shop\.W is not; see rows "
            r".*; lower"
        ),
    ):
        one_step(model, tasks, 0)
    assert all(torch.equal(value, before[name]) for name, value in model.dense_tensors.items())


def test_records_are_json_that_every_reader_takes(shards: Path) -> None:
    """No NaN, no Infinity: a weight of 0 has no sigma^2."""
    weights = {"item": 1.0, "category": 0.0, "shop": 0.0, "item_category": 0.0, "item_shop": 0.0}
    run(shards, weighting="given", weights=weights)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = (shards.parent / "model" / "train.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    assert records[0]["sigma2"]["category"] is None


def test_a_record_cut_short_by_a_crash_does_not_stop_a_resume(shards: Path) -> None:
    run(shards)
    path = shards.parent / "model" / "train.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: len(text) // 2], encoding="utf-8")
    train(shards, shards.parent / "model", Train(**SMALL), SEED, LocalComm(), resume=True)
    for line in path.read_text(encoding="utf-8").splitlines():
        json.loads(line)


def test_old_checkpoints_stay_where_a_shard_is_damaged(shards: Path) -> None:
    """Every file that a run will read is verified before what an earlier run left is removed."""
    run(shards)
    checkpoints = shards.parent / "model" / CHECKPOINTS
    before = files.whole_checkpoints(checkpoints)
    assert before
    last = shards / Manifest.read(shards).relations["item_shop"].streams[0].files[-1].path
    last.write_bytes(last.read_bytes()[:-1] + b"?")
    with pytest.raises(ManifestError, match=rf"{last} is not the file"):
        run(shards)
    assert files.whole_checkpoints(checkpoints) == before


def test_no_rank_removes_checkpoints_before_all_have_verified(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(shards)
    checkpoints = shards.parent / "model" / CHECKPOINTS
    before = files.whole_checkpoints(checkpoints)
    verify = Task.verify

    def damaged_on_rank_1(self: Task) -> None:
        if self.lanes[0].number == 1:
            raise ManifestError("damaged")
        verify(self)

    monkeypatch.setattr(Task, "verify", damaged_on_rank_1)
    with pytest.raises(ManifestError, match="damaged"):
        # Threads are no processes, whose end the others would see: they hear of an error by
        # alltoall.
        on_ranks(
            2,
            lambda comm: train(
                shards, shards.parent / "model", Train(**SMALL, exchange="alltoall"), SEED, comm
            ),
        )
    assert files.whole_checkpoints(checkpoints) == before


def test_each_shard_is_verified_once_a_run(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []

    def check(folder: Path, path: str, size: int, digest: str) -> None:
        checked.append(path)
        check_file(folder, path, size, digest)

    monkeypatch.setattr("trainer.data.streams.check_file", check)
    run(shards, epochs=3)
    manifest = Manifest.read(shards)
    streams = [manifest.views[view].streams[0] for view in manifest.views] + [
        r.streams[0] for r in manifest.relations.values()
    ]
    assert sorted(checked) == sorted(file.path for stream in streams for file in stream.files)


def test_the_records_of_before_survive_a_resume_that_cannot_write(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(shards)
    path = shards.parent / "model" / "train.jsonl"
    before = path.read_text(encoding="utf-8")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        train(shards, shards.parent / "model", Train(**SMALL), SEED, LocalComm(), resume=True)
    assert path.read_text(encoding="utf-8") == before


def test_one_view_alone(shards: Path) -> None:
    corpus = random_corpus()
    write_shards(shards, Corpus({"item": corpus.views["item"]}, {"item": 60}))
    records = run(shards)
    assert list(records[0]["losses"]) == ["item"]
    assert files.verified_manifest(
        files.newest_checkpoint(shards.parent / "model" / CHECKPOINTS)
    ).tasks == ("item",)


def test_other_views_than_the_shop(shards: Path) -> None:
    """Genres and tags, one of them without a relation, one with two nodes only."""
    corpus = random_corpus()
    views = {
        "tag": corpus.views["shop"],
        "item": corpus.views["item"],
        "genre": [[0, 1], [1, 0, 1]],
    }
    write_shards(
        shards,
        Corpus(views, {"item": 60, "tag": 5, "genre": 2}, {"item_tag": corpus.links["item_shop"]}),
    )
    records = run(shards)
    # The instance view comes first, wherever the manifest has it.
    assert list(records[0]["losses"]) == ["item", "tag", "genre", "item_tag"]


def test_more_lanes_than_rows_and_more_negatives_than_nodes(shards: Path) -> None:
    write_shards(shards, Corpus({"item": [[0, 1, 2], [2, 0]]}, {"item": 3}))
    records = run(shards, lanes=16, chunk_negatives=64)
    assert records[-2]["pairs"]["item"] > 0


def test_paper_batches_repeat_short_streams(shards: Path) -> None:
    records = run(shards, mixing="repeat", batch_pairs=400, epochs=1)
    for task in TASKS:
        assert sum(record["pairs"][task] for record in records[:-1]) == pytest.approx(
            400 * (len(records) - 1), rel=0.1
        )


def test_equal_counts_have_no_rank_correlation_with_lengths(shards: Path) -> None:
    write_shards(shards, Corpus({"item": [[0, 1, 2], [2, 1, 0]]}, {"item": 3}))
    assert run(shards)[-1]["length_count_correlation"] is None


class FourRanks(LocalComm):
    size = 4


def test_fewer_lanes_than_ranks_are_refused(shards: Path) -> None:
    with pytest.raises(TrainConfigError, match=r"train\.lanes = 3 is fewer than the 4 ranks"):
        build(shards, FourRanks(), lanes=3)


def test_a_manifest_without_the_instance_view_is_refused(shards: Path) -> None:
    write_shards(shards, Corpus({"shop": [[0, 1]]}, {"shop": 2}))
    with pytest.raises(ManifestError, match="not the instance view 'item'"):
        build(shards)


def test_a_view_without_pairs_is_named(shards: Path) -> None:
    write_shards(shards, Corpus({"item": [[0, 1]], "shop": [[0]]}, {"item": 2, "shop": 1}))
    with pytest.raises(ManifestError, match="view 'shop' has no training pairs"):
        build(shards)


def test_a_relation_without_links_is_named(shards: Path) -> None:
    write_shards(
        shards,
        Corpus(
            {"item": [[0, 1]], "shop": [[0, 1]]}, {"item": 2, "shop": 2}, {"item_shop": [[], []]}
        ),
    )
    with pytest.raises(ManifestError, match="relation 'item_shop' has no links"):
        build(shards)


@pytest.mark.parametrize(("written", "asked"), [(0, "pairs"), (1, "windows")])
def test_a_view_with_one_encoding_is_read_from_that(shards: Path, written: int, asked: str) -> None:
    """Walks and edges exist as pairs only."""
    manifest = Manifest.read(shards)
    item = manifest.views["item"]
    one = item.model_copy(update={"streams": (item.streams[written],)})
    manifest.model_copy(update={"views": {**manifest.views, "item": one}}).write(shards)
    model, tasks = build(shards, encoding=asked)
    assert one_step(model, tasks, 5).pairs[0] > 0
