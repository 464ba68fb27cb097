"""What is told of a run: the correlation and memory of all ranks, TensorBoard's events, traces, the
line, the bar."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import scipy.stats
import torch
from tensorboardX.proto.event_pb2 import Event

from tests.trainer.runs import SEED, SMALL, build, on_ranks
from tests.trainer.shards import random_corpus, write_shards
from trainer.checkpoints.saving import Saver
from trainer.config import Train
from trainer.embeddings.tables import LocalTables
from trainer.model import M2GRL, StepResult
from trainer.monitoring import health, progress
from trainer.monitoring.health import Watch, Watched
from trainer.monitoring.progress import Progress
from trainer.monitoring.tensorboard import scalars
from trainer.objective.fast_pairs import RelationWork
from trainer.objective.fast_windows import WindowWork
from trainer.objective.tasks import Task
from trainer.phases import PHASES, Clock
from trainer.ranks.comm import Comm, LocalComm
from trainer.training import CHECKPOINTS, train

COUNTS = np.arange(60, dtype=np.int64)[::-1].copy()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, random_corpus())
    return folder


def records(output: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (output / "train.jsonl").read_text(encoding="utf-8").splitlines()
    ]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_correlation_is_that_of_all_items_that_occur(shards: Path, ranks: int) -> None:
    def measured(comm: Comm) -> tuple[Watched, torch.Tensor]:
        model, _ = build(shards, comm)
        return Watch(model, COUNTS, SEED).measure(), model.tables.values

    found = on_ranks(ranks, measured)
    values = torch.empty(sum(len(part) for _, part in found), found[0][1].shape[1])
    for rank, (_, part) in enumerate(found):
        values[rank::ranks] = part
    expected = scipy.stats.spearmanr(values[:59].norm(dim=1), COUNTS[:59]).statistic
    for watched, _ in found:
        assert watched.length_count_correlation == pytest.approx(expected)
        assert len(watched.memory_bytes) == ranks
        assert all(
            size == pytest.approx(psutil.Process().memory_info().rss, rel=0.5)
            for size in watched.memory_bytes
        )


def test_of_many_items_a_fixed_sample_is_looked_at(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "SAMPLE", 10)
    model, _ = build(shards)
    some = Watch(model, COUNTS, SEED).measure().length_count_correlation
    assert some == Watch(model, COUNTS, SEED).measure().length_count_correlation
    monkeypatch.setattr(health, "SAMPLE", 4096)
    assert some != Watch(model, COUNTS, SEED).measure().length_count_correlation


WORK = {
    (Task, "read"): "read",
    (Task, "build"): "build",
    (torch, "unique"): "input-dist",
    (LocalTables, "_read"): "lookup",
    (WindowWork, "evaluate"): "compute",
    (RelationWork, "evaluate"): "compute",
    (LocalTables, "send_home"): "gradients",
    (M2GRL, "_reduce"): "dense",
    (LocalTables, "update"): "update",
    (Saver, "begin"): "checkpoint",
    (Saver, "collect"): "checkpoint",
    (Saver, "finish"): "checkpoint",
    (Watch, "measure"): "log",
}
"""What a run does -> its phase."""


def test_phases_sum_to_the_time_of_the_steps(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each piece of work takes a second, by a clock that stands still otherwise: none of them is in
    no phase, or in the wrong one."""
    now = 0.0
    spent: Counter[str] = Counter()

    def slowed(work: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def slow(*arguments: Any, **options: Any) -> Any:
            nonlocal now
            now += 1
            spent[phase] += 1
            return work(*arguments, **options)

        return slow

    for (owner, name), phase in WORK.items():
        monkeypatch.setattr(owner, name, slowed(getattr(owner, name), phase))
    monkeypatch.setattr("time.perf_counter", lambda: now)
    train(
        shards,
        tmp_path,
        Train(**{**SMALL, "log_steps": 10**6, "read_ahead": False}),
        SEED,
        LocalComm(),
    )
    (record,) = (record for record in records(tmp_path) if "phases" in record)
    # The last checkpoint and the last look come after the record.
    spent["checkpoint"] -= 5
    spent["log"] -= 1
    assert set(record["phases"]) == set(PHASES)
    total = sum(spent.values())
    assert record["phases"] == pytest.approx({phase: spent[phase] / total for phase in PHASES})


def all_events(path: Path) -> Iterator[Event]:
    """Of an event file, by the format of TensorFlow's records: a length, its checksum, an event,
    its checksum."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        yield Event.FromString(data[at + 12 : at + 12 + size])
        at += 8 + 4 + size + 4


def events(folder: Path) -> list[tuple[int, str, float]]:
    """(step, name, number) of all scalars in a folder with one event file."""
    (path,) = folder.iterdir()
    return [
        (event.step, value.tag, value.simple_value)
        for event in all_events(path)
        for value in event.summary.value
    ]


def test_tensorboard_has_what_the_records_have(shards: Path, tmp_path: Path) -> None:
    train(shards, tmp_path, Train(**SMALL), SEED, LocalComm())
    expected = [
        (record["step"], name, value)
        for record in records(tmp_path)
        for name, value in scalars(record)
    ]
    found = events(tmp_path / "tensorboard")
    assert [(step, name) for step, name, _ in found] == [(step, name) for step, name, _ in expected]
    assert [value for *_, value in found] == pytest.approx(
        [value for *_, value in expected], rel=1e-6
    )
    names = {name for _, name, _ in found}
    assert {
        "losses/item",
        "sigma2/item_shop",
        "weights/category",
        "phases/compute",
        "memory_gib/rank_0",
    } <= names
    assert {"pairs_per_s", "length_count_correlation"} <= names


def test_a_run_that_goes_on_hides_the_steps_it_repeats_and_one_that_starts_anew_all(
    shards: Path, tmp_path: Path
) -> None:
    config = Train(**SMALL)
    train(shards, tmp_path, config, SEED, LocalComm())
    folder = tmp_path / "tensorboard"
    last = sorted((tmp_path / CHECKPOINTS).iterdir())[-1]
    first = int(sorted((tmp_path / CHECKPOINTS).iterdir())[0].name.removeprefix("step-"))
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    train(shards, tmp_path, config, SEED, LocalComm(), resume=True)
    assert [
        event.step
        for path in folder.iterdir()
        for event in all_events(path)
        if event.HasField("session_log")
    ] == [first + 1]
    train(shards, tmp_path, config, SEED, LocalComm())
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(("steps", "recorded"), [(2, 2), (10**6, None)])
def test_a_trace_shows_the_phases_of_the_steps_asked_for(
    shards: Path, tmp_path: Path, steps: int, recorded: int | None
) -> None:
    """All steps where there are fewer than asked for."""
    train(shards, tmp_path, Train(**SMALL), SEED, LocalComm(), profile=steps)
    recorded = recorded or len([record for record in records(tmp_path) if "phases" in record])
    trace = json.loads((tmp_path / "trace" / "rank-0.json").read_text(encoding="utf-8"))[
        "traceEvents"
    ]
    named = [event["name"] for event in trace if event.get("cat") == "user_annotation"]
    assert {phase for phase in PHASES if phase in named} >= {
        "read",
        "build",
        "lookup",
        "compute",
        "update",
        "dense",
    }
    assert named.count("compute") == recorded
    assert any(event["name"] == "aten::index_select" for event in trace)


def test_no_trace_unless_asked_for(shards: Path, tmp_path: Path) -> None:
    train(shards, tmp_path, Train(**{**SMALL, "epochs": 1}), SEED, LocalComm())
    assert not (tmp_path / "trace").exists()


def told(tmp_path: Path) -> Progress:
    """Two tasks, of which the second has had no pair."""
    log = Progress(
        tmp_path,
        ["item", "item_shop"],
        first=0,
        total=2,
        steps_an_epoch=2,
        log_steps=1,
        log_seconds=0.01,
    )
    log.add(1, StepResult([2.5, float("nan")], [10, 0], [0.5, 0.05]))
    log.record(
        1,
        [0.5, 0.05],
        [2.0, None],
        Watched(-0.25, [2**30, 3 * 2**30]),
        Clock().take() | {"compute": 1e6},
        0.0,
    )
    return log


def test_the_line_has_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with told(tmp_path):
        line = capsys.readouterr().out
    for part in (
        "step      1/2",
        "epoch  0.50",
        "M pairs/s",
        "left 0:0",
        "item 2.5/2/0.5",
        "item_shop -/-/0.05",
        "-0.25",
        "3.0 GiB a rank",
        "compute",
    ):
        assert part in line
    assert line.count("\n") == 1


def test_a_terminal_gets_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real terminal: rich draws none elsewhere."""
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(progress.sys, "stdout", terminal)
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setenv("TERM", "xterm")
        told(tmp_path).close()
    shown = os.read(master, 1 << 16).decode()
    os.close(master)
    assert "training" in shown
    assert "1/2" in shown
    assert "left" in shown
