"""The trainer beside gensim and plain PyTorch, and two ranks beside one, in turn: `make
bench-train`, or `python -m tests.bench.train`.

Figures go to build/bench/train.json. Each run is a process of its own and computes with one thread
a rank; time counts without the start and with the reading of shards.
"""

import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from pipeline.contracts.shards import Manifest
from pipeline.storage.files import write_text
from tests.bench.conditions import measured_on, spread, threads
from tests.bench.corpora import dense
from tests.bench.train_run import DIMENSION
from trainer.config import Train

PACKAGES = ("torch", "numpy", "gensim", "pyarrow")
DENSE = "dense"
FAST: dict[str, Any] = {"epochs": 1000}
EXACT: dict[str, Any] = {
    "step": "exact",
    "optimiser": "adam",
    "learning_rate": 0.01,
    "batch_pairs": 2048,
    "epochs": 1000,
}
LAUNCH = Path(sys.executable).with_name("horovodrun")
FAST_ITEM = "fast step, item task"
SAVE_STEPS = 20
"""Steps between checkpoints in the line that shows what they cost; a real run makes one an epoch or
so."""
PEAK_SIDE, PEAK_ROUNDS = 1024, 20
COPIED_BYTES = 2**29


@dataclass(frozen=True)
class Options:
    """Time the trainer beside its peers."""

    corpora: tuple[str, ...] = (DENSE, "globo", "completejourney")
    """The synthetic one, or shipped projects, whose shards are made under build/ where they are not
    there."""
    rounds: int = 3
    seconds: float = 8.0
    """About how long each run computes."""
    batch_pairs: int = 262_144
    """Of a rank."""
    only: str = ""
    """Runs whose name has this text; none: all."""
    cycles: tuple[float, ...] = ()
    """Two ranks besides with Horovod's thread looking for work every so many milliseconds, at both
    levels of the exchange."""
    folder: Path = Path("build/bench")


@dataclass(frozen=True)
class Run:
    """Something that is timed."""

    engine: str
    ranks: int
    alone: bool
    """The item task, without the others."""
    train: dict[str, Any]
    save: str | None = None
    """Folder of a checkpoint at the end."""
    save_steps: int = 0
    """Steps between checkpoints before; 0: none."""
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, shards: Path, seconds: float) -> list[str]:
        save = {} if self.save is None else {"save": self.save, "save_steps": self.save_steps}
        options = json.dumps({"alone": self.alone, "train": self.train, "seconds": seconds} | save)
        launch = [str(LAUNCH), "-np", str(self.ranks), "--gloo"] if self.ranks > 1 else []
        return [
            *launch,
            sys.executable,
            "-m",
            "tests.bench.train_run",
            self.engine,
            str(shards),
            options,
        ]


def runs(options: Options) -> dict[str, Run]:
    """Everything that is timed, in the order of a round."""
    batch = options.batch_pairs

    def ours(alone: bool, ranks: int = 1, **train: Any) -> Run:
        return Run("m2grl", ranks, alone, {**FAST, "batch_pairs": batch * ranks, **train})

    listed = {
        "gensim": Run("gensim", 1, True, {}),
        "naive PyTorch": Run("naive", 1, True, {}),
        "exact step, item task": Run("m2grl", 1, True, EXACT),
        "exact step, all tasks": Run("m2grl", 1, False, EXACT),
        "fast step, item task": ours(True),
        "fast step, item task, PyTorch alone": ours(True, kernels="torch"),
        "fast step, all tasks": ours(False),
        "two ranks, item task": ours(True, 2),
        "two ranks, all tasks": ours(False, 2),
        "two ranks, all tasks, with checkpoints": replace(
            ours(False, 2), save=str(options.folder / "checkpoints"), save_steps=SAVE_STEPS
        ),
        "two ranks, item task, alltoall": ours(True, 2, exchange="alltoall"),
        "two ranks, all tasks, alltoall": ours(False, 2, exchange="alltoall"),
    }
    for level, cycle in itertools.product(("shared", "alltoall"), options.cycles):
        environment = {"HOROVOD_CYCLE_TIME": f"{cycle:g}"}
        listed[f"two ranks, item task, {level}, cycle {cycle:g} ms"] = replace(
            ours(True, 2, exchange=level), environment=environment
        )
    return {name: run for name, run in listed.items() if options.only in name}


def main() -> None:
    """Exit status 0 only when every run ended well."""
    options = tyro.cli(Options, description=__doc__)
    report = measured_on(PACKAGES) | {
        "bounds": bounds(),
        "rounds": options.rounds,
        "defaults": Train().model_dump(mode="json"),
    }
    report["corpora"] = {}
    for name, shards in {name: shards_of(name, options) for name in options.corpora}.items():
        report["corpora"][name] = corpus(name, shards, options, report["bounds"]["gflops"] * 1e9)
        write_text(options.folder / "train.json", json.dumps(report, indent=2) + "\n")
    show(report)


def shards_of(name: str, options: Options) -> Path:
    """Where a corpus lies; it is made where it is not there. Ends the benchmark where that
    fails."""
    if name == DENSE:
        return dense(options.folder / "corpora" / DENSE)
    shards = Path("build") / name / "shards"
    if not (shards / "manifest.json").exists():
        print(f"{name}: preprocessing, as {shards} is not there ...", flush=True)
        done = subprocess.run(
            [sys.executable, "jobs/preprocess.py", f"jobs/configs/{name}.toml"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(
                f"bench-train: preprocessing {name} ended with status "
                f"{done.returncode}:\n{done.stderr[-2000:]}"
            )
    return shards


def bounds() -> dict[str, float]:
    """What one core of this machine can do: multiply-adds in large products, and bytes copied."""
    torch.set_num_threads(1)
    square = torch.randn(PEAK_SIDE, PEAK_SIDE)
    flops = max(2 * PEAK_SIDE**3 / _seconds(lambda: square @ square) for _ in range(PEAK_ROUNDS))
    block = torch.zeros(COPIED_BYTES // 4)
    target = torch.zeros_like(block)
    copied = max(2 * COPIED_BYTES / _seconds(lambda: target.copy_(block)) for _ in range(5))
    return {"gflops": round(flops / 1e9, 1), "copy_gbytes": round(copied / 1e9, 1)}


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def corpus(name: str, shards: Path, options: Options, flops: float) -> dict[str, Any]:
    """All runs on one corpus; flops: what a core could do in products."""
    found: dict[str, list[dict[str, Any]]] = {}
    for number in range(options.rounds):
        for what, run in runs(options).items():
            print(
                f"{name}, round {number + 1} of {options.rounds}: {what} ...", end=" ", flush=True
            )
            found.setdefault(what, []).append(figures := one_run(run, shards, options.seconds))
            print(f"{figures['item_pairs_per_s'] / 1e6:.2f} M item pairs/s", flush=True)
    stream = Manifest.read(shards).views["item"].streams[0]
    pairs_a_token = stream.pairs / sum(file.tokens for file in stream.files)
    engines = {what: summary(all_, pairs_a_token) for what, all_ in found.items()}
    limit = flops / flops_a_pair(pairs_a_token)
    told = {
        "pairs_a_token": round(pairs_a_token, 2),
        "flops_a_pair": round(flops_a_pair(pairs_a_token)),
        "bound_pairs_per_s": round(limit),
    }
    if FAST_ITEM in engines:
        told["share_of_bound"] = round(engines[FAST_ITEM]["item_pairs_per_s"]["median"] / limit, 3)
    return told | {"engines": engines} | ratios(engines)


def one_run(run: Run, shards: Path, seconds: float) -> dict[str, Any]:
    """Its figures; ends the benchmark where it fails."""
    done = subprocess.run(
        run.command(shards, seconds),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | run.environment,
    )
    lines = [line[line.index("{") :] for line in done.stdout.splitlines() if '{"' in line]
    if done.returncode or not lines:
        sys.exit(
            f"bench-train: {run} ended with status "
            f"{done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    found: dict[str, Any] = json.loads(lines[-1])
    return found | {
        f"{kind}_per_s": found[kind] / found["seconds"] for kind in ("item_pairs", "pairs")
    }


def summary(found: list[dict[str, Any]], pairs_a_token: float) -> dict[str, Any]:
    """Over the rounds."""
    figures: dict[str, Any] = {
        kind: spread([run[kind] for run in found]) for kind in ("item_pairs_per_s", "pairs_per_s")
    }
    figures["item_tokens_per_s"] = round(figures["item_pairs_per_s"]["median"] / pairs_a_token)
    last = {
        key: value
        for key, value in found[-1].items()
        if key in ("phases", "waited", "calls_a_step", "sent_bytes_a_pair", "steps")
    }
    return figures | last


RATIOS = {
    "ratio_to_gensim": ("fast step, item task", "gensim"),
    "all_tasks_ratio_to_gensim": ("fast step, all tasks", "gensim"),
    "two_ranks_to_one": ("two ranks, item task", "fast step, item task"),
    "two_ranks_to_one_all_tasks": ("two ranks, all tasks", "fast step, all tasks"),
    "with_checkpoints_to_without": (
        "two ranks, all tasks, with checkpoints",
        "two ranks, all tasks",
    ),
    "two_ranks_to_one_alltoall": ("two ranks, item task, alltoall", "fast step, item task"),
}
"""Name -> two runs."""


def ratios(engines: dict[str, Any]) -> dict[str, Any]:
    """By the medians."""

    def rate(what: str) -> float:
        return float(engines[what]["item_pairs_per_s"]["median"])

    return {
        name: round(rate(above) / rate(below), 3)
        for name, (above, below) in RATIOS.items()
        if above in engines and below in engines
    }


def flops_a_pair(pairs_a_token: float) -> float:
    """Multiply-adds count two. Three products of the item task each: with the window's contexts,
    and with the negatives of the chunk."""
    return 3 * 2 * DIMENSION * (pairs_a_token + Train().chunk_negatives) / pairs_a_token


def show(report: dict[str, Any]) -> None:
    """A table a corpus."""
    console = Console(width=120)
    for name, found in report["corpora"].items():
        table = Table(
            "",
            "item pairs/s (M)",
            "least to most",
            "all pairs/s (M)",
            "item tokens/s (k)",
            title=name,
        )
        for what, figures in found["engines"].items():
            item, all_ = figures["item_pairs_per_s"], figures["pairs_per_s"]
            spread_ = f"{item['min'] / 1e6:.2f} to {item['max'] / 1e6:.2f}"
            table.add_row(
                what,
                f"{item['median'] / 1e6:.2f}",
                spread_,
                f"{all_['median'] / 1e6:.2f}",
                f"{figures['item_tokens_per_s'] / 1e3:,.0f}",
            )
        console.print(table)
        console.print(
            f"one core's products would allow {found['bound_pairs_per_s'] / 1e6:.1f} M item pairs/s"
        )
        console.print(
            {key: value for key, value in found.items() if key in RATIOS or key == "share_of_bound"}
        )
    console.print(f"{threads()} cores; {report['bounds']}")


if __name__ == "__main__":
    main()
