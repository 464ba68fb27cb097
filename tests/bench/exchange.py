"""What ranks would exchange, by counting: `make bench-exchange`, or `python -m tests.bench.exchange --ranks 1 2 4 8`.

Virtual ranks read the real order of a corpus, each its lanes of each step, and list the rows that they want; nothing is computed or sent.
Beside the counts stands what docs/scale.md's formula says of the item task, from the corpus's counts alone. Figures go to
build/bench/exchange.json.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tyro
from rich.console import Console
from rich.table import Table

from pipeline.files import write_text
from pipeline.manifest import read_manifest
from tests.bench.conditions import measured_on
from tests.bench.corpora import dense, item_alone
from trainer.comm import LocalComm
from trainer.config import Train
from trainer.tasks import TaskFactory

KEY_BYTES, FLOAT_BYTES = 8, 4
PAIRS_A_TOKEN = 13.7
PART = 1 << 22
"""Items that the formula looks at at a time."""
COLLECTIVES = 5
"""Of a step over alltoall: pairs, input-dist, output-dist, gradients, dense."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """Count what virtual ranks exchange."""

    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    shards: Path | None = None
    """A folder of shards; none: the synthetic corpus of bench-train."""
    batch_pairs: int = 262_144
    """Item pairs of a rank in a step."""
    steps: int = 5
    alone: bool = True
    """The item task alone, for which the formula holds; else all tasks."""
    pairs_per_s: float = 11.65e6
    """What a rank computes, without the exchange (docs/performance.md)."""
    bandwidth: float = 1.25e9
    """Bytes a second that a rank sends while it receives as many: 10 Gbit/s."""
    latency: float = 100e-6
    """Seconds that a collective operation takes however little it carries."""
    zipf_items: int = 0
    """Instead of counting, what the formula says of so many items whose counts fall as 1/rank, with as many pairs a token as the synthetic
    corpus has."""
    pass_pairs: float = 57e9
    """Pairs of a pass, for the formula."""
    folder: Path = Path("build/bench")


class VirtualComm(LocalComm):
    """Rank `rank` of `size`, of which no other is there."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self.rank, self.size = rank, size


@dataclass(frozen=True)
class Wanted:
    """What one rank wants in one step."""

    pairs: int
    tokens: int
    """Positions of the item stream."""
    negatives: int
    """Drawn for them."""
    rows: int
    """Distinct."""
    elsewhere: int
    """Of these on other ranks."""


def wanted(shards: Path, options: Options, ranks: int) -> Iterator[Wanted]:
    """Of each rank and step, by the trainer's own order, negatives and placement of rows."""
    train = Train(batch_pairs=options.batch_pairs * ranks, lanes=max(16, ranks), epochs=10_000)
    manifest = item_alone(read_manifest(shards)) if options.alone else read_manifest(shards)
    for rank in range(ranks):
        factory = TaskFactory(shards, manifest, train, 1, VirtualComm(rank, ranks))
        tasks = factory.tasks()
        for step in range(options.steps):
            works = [work for task in tasks if (work := task.build(task.read(step), step)) is not None]
            keys = np.unique(np.concatenate([work.keys.numpy() for work in works])) if works else np.zeros(0, np.int64)
            tokens = sum(len(rows.values) for _, rows in tasks[0].read(step))
            chunks = sum(-(-len(rows.values) // train.chunk) for _, rows in tasks[0].read(step))
            pairs = sum(work.pairs for work in works)
            yield Wanted(pairs, tokens, chunks * train.chunk_negatives, len(keys), int((keys % ranks != rank).sum()))


def bytes_of(elsewhere: float, dimension: int) -> float:
    """Of one rank's step: keys there, rows back, gradients there."""
    return elsewhere * (KEY_BYTES + 2 * FLOAT_BYTES * dimension)


def expected_rows(counts: Floats, exponent: float, tokens: float, negatives: float) -> float:
    """Distinct rows of the item task that `tokens` positions and `negatives` draws want: input rows of the tokens, and output rows of both.

    Each is drawn by its share p, or of the noise q, as if independently: E = sum of 1 - (1 - p)^tokens, and of 1 - (1 - p)^tokens (1 -
    q)^negatives.
    """
    parts = np.array_split(counts, max(1, len(counts) // PART))
    clicks, noise = sum(float(part.sum()) for part in parts), sum(float((part**exponent).sum()) for part in parts)
    rows = 0.0
    for part in parts:
        unseen = tokens * np.log1p(-part / clicks)
        rows += float((-np.expm1(unseen)).sum() + (-np.expm1(unseen + negatives * np.log1p(-(part**exponent) / noise))).sum())
    return rows


def seconds_of(pairs: float, sent: float, options: Options) -> float:
    """Of a step: what is computed, and then what is exchanged."""
    return pairs / options.pairs_per_s + (sent / options.bandwidth + COLLECTIVES * options.latency if sent else 0.0)


def counted(shards: Path, options: Options, ranks: int) -> dict[str, Any]:
    """Means over ranks and steps."""
    train = Train()
    found = list(wanted(shards, options, ranks))
    pairs, tokens, negatives, rows, elsewhere = (float(np.mean([getattr(one, name) for one in found])) for name in Wanted.__annotations__)
    sent = bytes_of(elsewhere, train.dimension)
    counts = TaskFactory(shards, read_manifest(shards), train, 1, LocalComm()).item_counts.astype(np.float64)
    formula = bytes_of(expected_rows(counts, train.noise_exponent, tokens, negatives) * (ranks - 1) / ranks, train.dimension)
    seconds = seconds_of(pairs, sent, options)
    return {
        "ranks": ranks,
        "pairs": pairs,
        "rows": rows,
        "elsewhere": elsewhere,
        "bytes_a_pair": sent / pairs,
        "formula_bytes_a_pair": formula / pairs if options.alone else None,
        "step_seconds": seconds,
        "pairs_per_s": ranks * pairs / seconds,
        "to_one_rank": ranks * pairs / seconds / options.pairs_per_s,
    }


def by_formula(options: Options) -> None:
    """Prints what ranks send by the formula, and how long a pass takes them."""
    train, counts = Train(), 1 / np.arange(1, options.zipf_items + 1)
    tokens = options.batch_pairs / PAIRS_A_TOKEN
    rows = expected_rows(counts, train.noise_exponent, tokens, tokens * train.chunk_negatives / train.chunk)
    print(f"{options.zipf_items:,} items, {options.batch_pairs:,} pairs a rank: {rows:,.0f} rows")
    for ranks in options.ranks:
        sent = bytes_of(rows * (ranks - 1) / ranks, train.dimension)
        seconds = seconds_of(options.batch_pairs, sent, options)
        rate = ranks * options.batch_pairs / seconds
        print(
            f"{ranks:>3} ranks: {sent / options.batch_pairs:5.1f} bytes a pair, {1000 * seconds:6.1f} ms a step, "
            f"{rate / 1e6:8.1f} M pairs/s, {options.pass_pairs / rate / 3600:7.2f} h a pass"
        )


def main() -> None:
    """Counts, prints and writes."""
    options = tyro.cli(Options, description=__doc__)
    if options.zipf_items:
        by_formula(options)
        return
    shards = options.shards or dense(options.folder / "corpora" / "dense")
    report = measured_on(("numpy",)) | {"options": json.loads(json.dumps(asdict(options), default=str)), "sizes": []}
    table = Table("ranks", "pairs a rank", "rows", "elsewhere", "bytes a pair", "by formula", "M pairs/s", "of one rank")
    for ranks in options.ranks:
        report["sizes"].append(found := counted(shards, options, ranks))
        formula = found["formula_bytes_a_pair"]
        table.add_row(
            str(ranks),
            f"{found['pairs']:,.0f}",
            f"{found['rows']:,.0f}",
            f"{found['elsewhere']:,.0f}",
            f"{found['bytes_a_pair']:.1f}",
            "-" if formula is None else f"{formula:.1f}",
            f"{found['pairs_per_s'] / 1e6:.1f}",
            f"{found['to_one_rank']:.2f}",
        )
        print(json.dumps(found), flush=True)
    write_text(options.folder / "exchange.json", json.dumps(report, indent=2) + "\n")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
