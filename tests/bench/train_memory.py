"""Memory of training the paper's vocabulary on one machine: `make bench-train-memory`, or `python
-m tests.bench.train_memory`.

10 million items, 1.3 million shops and 12,000 categories, d = 64, input and output vectors,
row-wise Adagrad, two ranks; on two numbers of clicks, with checkpoints written meanwhile; then of
exporting the last one. Peak memory is of both ranks and their launcher together, shared pages once.
Figures go to build/bench/train-memory.json.
"""

import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from pipeline.contracts.shards import Manifest
from pipeline.storage.files import write_text
from tests.bench.conditions import measured_on
from tests.bench.corpora import Size, dense
from tests.bench.process import Usage, measured
from tests.bench.train import PACKAGES, Run
from tests.bench.train_run import DIMENSION
from trainer.embeddings.keys import KeySpace

EXPORT = """
import sys
from pathlib import Path
from trainer.export import export
export(*map(Path, sys.argv[1:]))
"""
BOUND_FACTOR, BOUND_BYTES = 1.15, 1_500_000_000
"""Peak memory is to stay below this factor times the tables, plus this."""


@dataclass(frozen=True)
class Options:
    """Measure the memory of training."""

    clicks: tuple[int, ...] = (3_000_000, 30_000_000)
    items: int = 10_000_000
    shops: int = 1_300_000
    categories: int = 12_000
    ranks: int = 2
    batch_pairs: int = 262_144
    """Of all ranks."""
    seconds: float = 60.0
    save_steps: int = 10
    """Steps between checkpoints, which are written while training goes on."""
    memory_gib: float = 16.0
    """A run that holds more is ended."""
    folder: Path = Path("build/bench")


def main() -> None:
    """Exit status 0 only when every run ended well and stayed below the bound."""
    options = tyro.cli(Options, description=__doc__)
    report = measured_on(PACKAGES) | {
        "options": json.loads(json.dumps(asdict(options), default=str)),
        "runs": [],
    }
    for clicks in options.clicks:
        report["runs"].append(one_run(options, clicks))
        write_text(options.folder / "train-memory.json", json.dumps(report, indent=2) + "\n")
        print(json.dumps(report["runs"][-1]), flush=True)
    if not all(run["within"] for run in report["runs"]):
        sys.exit(
            "bench-train-memory: not every run ended well and below the bound; "
            "build/bench/train-memory.json says which"
        )


def one_run(options: Options, clicks: int) -> dict[str, Any]:
    """Trains for some seconds, saves, exports, and says how much memory that took."""
    print(f"{clicks:,} clicks ...", flush=True)
    size = Size(clicks, options.items, options.categories, options.shops)
    shards = dense(options.folder / "corpora" / f"memory-{clicks}", size)
    saved = options.folder / "memory-checkpoint"
    shutil.rmtree(saved, ignore_errors=True)
    train = {"epochs": 1000, "batch_pairs": options.batch_pairs}
    log = options.folder / "logs" / f"train-memory-{clicks}.log"
    command = Run("m2grl", options.ranks, False, train, str(saved), options.save_steps).command(
        shards, options.seconds
    )
    usage = measured(command, os.environ, round(options.memory_gib * 2**30), log, shared_once=True)
    keys = KeySpace.of(
        {view: shards_.vocabulary.nodes for view, shards_ in Manifest.read(shards).views.items()}
    )
    tables = keys.size * DIMENSION * 4
    bound = BOUND_FACTOR * tables + BOUND_BYTES
    written = sum(path.stat().st_size for path in saved.rglob("*") if path.is_file())
    exported = exporting(shards, saved, options)
    shutil.rmtree(saved, ignore_errors=True)
    figures = [
        json.loads(line[line.index("{") :])
        for line in log.read_text(encoding="utf-8").splitlines()
        if '{"steps' in line
    ]
    within = usage.failed is None and exported.failed is None and usage.peak_rss_bytes <= bound
    sizes = {"table_bytes": tables, "bound_bytes": round(bound), "checkpoint_bytes": written}
    return {
        "clicks": clicks,
        "within": within,
        **asdict(usage),
        **sizes,
        "export": asdict(exported),
        "training": figures[-1] if figures else None,
    }


def exporting(shards: Path, saved: Path, options: Options) -> Usage:
    """Exports the checkpoint that was saved, and takes the files away."""
    embeddings = options.folder / "memory-embeddings"
    shutil.rmtree(embeddings, ignore_errors=True)
    command = [sys.executable, "-c", EXPORT, *map(str, (shards, saved, embeddings))]
    log = options.folder / "logs" / f"{shards.name}-export.log"
    usage = measured(command, os.environ, round(options.memory_gib * 2**30), log, shared_once=True)
    shutil.rmtree(embeddings, ignore_errors=True)
    return usage


if __name__ == "__main__":
    main()
