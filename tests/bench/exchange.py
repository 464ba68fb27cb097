"""What ranks would exchange, by counting: `make bench-exchange`, or `python -m tests.bench.exchange
--ranks 1 2 4 8`.

Virtual ranks read the real order of a corpus, each its lanes of each step, and list the rows that
they want; nothing is computed or sent. Beside the counts stands what docs/scale.md's formula says
from the corpus's counts alone. Figures go to build/bench/exchange.json. With --zipf-items nothing
is counted: the formula says what a vocabulary of that size would exchange.
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

from pipeline.config import ITEM_VIEW
from pipeline.contracts.shards import Manifest
from pipeline.storage.files import write_text
from tests.bench.conditions import measured_on
from tests.bench.corpora import dense, item_alone
from tests.bench.exchange_formula import (
    FLOAT_BYTES,
    KEY_BYTES,
    Drawn,
    Machine,
    Relation,
    View,
    sent_bytes,
    wanted_rows,
    zipf,
)
from trainer.config import Train
from trainer.data.streams import LaneRows, StreamFiles
from trainer.objective.tasks import TaskFactory, read_counts, relation_stream
from trainer.ranks.comm import LocalComm

PAIRS_A_TOKEN = 13.7
"""Of the synthetic corpus (docs/measurements.md)."""
LANES = 16
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """Count what virtual ranks exchange."""

    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    shards: Path | None = None
    """A folder of shards; none: the synthetic corpus of bench-train."""
    batch_pairs: int = 262_144
    """Item pairs of a rank in a step."""
    steps: int = 20
    alone: bool = True
    """The item task alone; else all tasks."""
    pairs_per_s: float = 11.65e6
    """What a rank computes, without the exchange (docs/measurements.md)."""
    bandwidth: float = 1.25e9
    """Bytes a second that a rank sends while it receives as many: 10 Gbit/s."""
    latency: float = 1e-3
    """Seconds that a collective operation takes however little it carries."""
    zipf_items: int = 0
    """Instead of counting, what the formula says of so many items whose clicks fall as 1 /
    rank^zipf_exponent, with as many pairs a token as the synthetic corpus has."""
    zipf_exponent: float = 1.0
    zipf_shops: int = 19_500_000
    zipf_categories: int = 12_000
    pass_pairs: float = 57e9
    """Pairs of a pass, of all tasks, for the formula."""
    folder: Path = Path("build/bench")

    @property
    def machine(self) -> Machine:
        """What a rank does in a second."""
        return Machine(self.pairs_per_s, self.bandwidth, self.latency)


class VirtualComm(LocalComm):
    """Rank `rank` of `size`, of which no other is there."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self.rank, self.size = rank, size


@dataclass(frozen=True)
class Counts:
    """What ranks want in some steps."""

    pairs: Ints
    """[steps, ranks]"""
    wanted: Ints
    """[steps, ranks, owners] distinct rows that a rank wants of each owner."""
    drawn: dict[str, Drawn]
    """By task, the mean of ranks and steps."""

    @property
    def elsewhere(self) -> Ints:
        """[steps, ranks, owners] the same without what is a rank's own."""
        return self.wanted * ~np.eye(self.wanted.shape[1], dtype=np.bool_)

    def sent(self, dimension: int) -> dict[str, Ints]:
        """Exchange -> bytes [steps, ranks] that each rank sends to others. Rows come back from
        whoever was asked for them."""
        asks, gives = self.elsewhere.sum(2), self.elsewhere.sum(1)
        row = FLOAT_BYTES * dimension
        return {"input-dist": asks * KEY_BYTES, "output-dist": gives * row, "gradients": asks * row}


def count(shards: Path, options: Options, ranks: int) -> Counts:
    """By the trainer's own order, negatives and placement of rows."""
    train, manifest = settings(options, ranks), chosen(shards, options)
    pairs = np.zeros((options.steps, ranks), np.int64)
    wanted = np.zeros((options.steps, ranks, ranks), np.int64)
    drawn: dict[str, Floats] = {}
    for rank in range(ranks):
        tasks = TaskFactory(shards, manifest, train, 1, VirtualComm(rank, ranks)).tasks()
        for step in range(options.steps):
            read = {task.name: task.read(step) for task in tasks}
            works = [
                work for task in tasks if (work := task.build(read[task.name], step)) is not None
            ]
            keys = (
                np.unique(np.concatenate([work.keys.numpy() for work in works]))
                if works
                else np.zeros(0, np.int64)
            )
            pairs[step, rank] = sum(work.pairs for work in works)
            wanted[step, rank] = np.bincount(keys % ranks, minlength=ranks)
            for name, lanes in read.items():
                drawn[name] = drawn.get(name, np.zeros(3)) + draws_of(lanes, train)
    return Counts(
        pairs,
        wanted,
        {name: Drawn(*(total / pairs.size).tolist()) for name, total in drawn.items()},
    )


def settings(options: Options, ranks: int) -> Train:
    """The trainer's, for so many ranks."""
    return Train(batch_pairs=options.batch_pairs * ranks, lanes=max(LANES, ranks), epochs=10_000)


def chosen(shards: Path, options: Options) -> Manifest:
    """The tasks that are asked for."""
    manifest = Manifest.read(shards)
    return item_alone(manifest) if options.alone else manifest


def draws_of(lanes: LaneRows, train: Train) -> Floats:
    """[3] centres, contexts and negatives that a task's rows come to."""
    centres = [len(rows.values) if rows.centres is None else len(rows) for _, rows in lanes]
    contexts = sum(len(rows.values) for _, rows in lanes)
    return np.array(
        [
            sum(centres),
            contexts,
            sum(-(-one // train.chunk) for one in centres) * train.chunk_negatives,
        ],
        np.float64,
    )


def shares(shards: Path, manifest: Manifest) -> tuple[dict[str, View], dict[str, Relation]]:
    """What the formula has to know of a corpus."""
    clicks = {
        view: read_counts(shards, manifest, view).astype(np.float64) for view in manifest.views
    }
    views = {view: View(np.ones(len(counts)), counts) for view, counts in clicks.items()}
    relations = {}
    for name, relation in manifest.relations.items():
        stream = relation_stream(manifest, name)
        rows = StreamFiles(shards, stream).read(0, stream.rows)
        centres, values = np.zeros(len(clicks[ITEM_VIEW])), np.zeros(len(clicks[relation.view]))
        np.add.at(centres, rows.centres, 1)
        np.add.at(values, rows.values, 1)
        relations[name] = Relation(relation.view, centres, values)
    return views, relations


def counted(shards: Path, options: Options, ranks: int) -> dict[str, Any]:
    """Means over steps and ranks, what the formula says of them, and how long a step takes, which
    the slowest rank decides."""
    train, found = Train(), count(shards, options, ranks)
    pairs, sent = float(found.pairs.mean()), found.sent(train.dimension)
    of_a_rank = sum(sent.values(), np.zeros_like(found.pairs))
    views, relations = shares(shards, chosen(shards, options))
    rows = float(found.wanted.sum(2).mean())
    expected = wanted_rows(views, relations, found.drawn, train.noise_exponent)
    slowest = zip(found.pairs.max(1), of_a_rank.max(1), strict=True)
    seconds = float(
        np.mean(
            [
                options.machine.step_seconds(most_pairs, most_sent, ranks)
                for most_pairs, most_sent in slowest
            ]
        )
    )
    rate = float(found.pairs.sum(1).mean()) / seconds
    return {
        "ranks": ranks,
        "pairs": pairs,
        "rows": rows,
        "formula_rows": expected,
        "formula_off": expected / rows - 1,
        "elsewhere": float(found.elsewhere.sum(2).mean()),
        "bytes_a_pair": float(of_a_rank.mean()) / pairs,
        "bytes_a_pair_of": {name: float(part.mean()) / pairs for name, part in sent.items()},
        "formula_bytes_a_pair": sent_bytes(expected * (ranks - 1) / ranks, train.dimension) / pairs,
        "most_pairs": float((found.pairs.max(1) / found.pairs.mean(1)).mean()),
        "most_sent": float((of_a_rank.max(1) / of_a_rank.mean(1)).mean()) if ranks > 1 else 1.0,
        "step_seconds": seconds,
        "pairs_per_s": rate,
        "to_one_rank": rate / options.pairs_per_s,
    }


def zipf_case(options: Options) -> tuple[float, float]:
    """(pairs, rows wanted) of a rank's step by the formula. Every view has as many tokens as the
    item view, every item one value of each other view, and the links are passed over once while the
    sequences are."""
    train = Train()
    sizes = {ITEM_VIEW: options.zipf_items}
    sizes |= (
        {} if options.alone else {"shop": options.zipf_shops, "category": options.zipf_categories}
    )
    views = {view: zipf(nodes, options.zipf_exponent) for view, nodes in sizes.items()}
    evenly = {view: np.ones(len(bins.nodes)) for view, bins in views.items()}
    relations = {
        f"item_{view}": Relation(view, evenly[ITEM_VIEW], evenly[view])
        for view in sizes
        if view != ITEM_VIEW
    }
    # Of all pairs of a pass, all but the links are shared by the views.
    item_pairs = (options.pass_pairs - len(relations) * options.zipf_items) / len(views)
    tokens, links = (
        options.batch_pairs / PAIRS_A_TOKEN,
        options.zipf_items * options.batch_pairs / item_pairs,
    )
    each = train.chunk_negatives / train.chunk
    drawn = {view: Drawn(tokens, tokens, tokens * each) for view in views}
    drawn |= {name: Drawn(links, links, links * each) for name in relations}
    return len(views) * options.batch_pairs + len(relations) * links, wanted_rows(
        views, relations, drawn, train.noise_exponent
    )


def by_formula(options: Options) -> Iterator[str]:
    """Lines: what ranks send, and how long a pass takes them."""
    pairs, rows = zipf_case(options)
    yield f"{options.zipf_items:,} items, {pairs:,.0f} pairs a rank and step: {rows:,.0f} rows"
    for ranks in options.ranks:
        sent = sent_bytes(rows * (ranks - 1) / ranks, Train().dimension)
        seconds = options.machine.step_seconds(pairs, sent, ranks)
        rate = ranks * pairs / seconds
        yield (
            f"{ranks:>3} ranks: {sent / pairs:5.1f} bytes a pair, {1000 * seconds:7.1f} ms a "
            f"step, {rate / 1e6:8.1f} M pairs/s, "
            f"{options.pass_pairs / rate / 3600:7.3f} h and "
            f"{options.pass_pairs / (ranks * pairs):,.0f} steps a pass"
        )


def main() -> None:
    """Counts, prints and writes."""
    options = tyro.cli(Options, description=__doc__)
    if options.zipf_items:
        print("\n".join(by_formula(options)))
        return
    shards = options.shards or dense(options.folder / "corpora" / "dense")
    report = measured_on(("numpy",)) | {
        "options": json.loads(json.dumps(asdict(options), default=str)),
        "sizes": [],
    }
    for ranks in options.ranks:
        report["sizes"].append(found := counted(shards, options, ranks))
        print(json.dumps(found), flush=True)
    write_text(options.folder / "exchange.json", json.dumps(report, indent=2) + "\n")
    Console(width=140).print(shown(report["sizes"]))


def shown(sizes: list[dict[str, Any]]) -> Table:
    """A line a number of ranks."""
    head = (
        "ranks",
        "pairs a rank",
        "rows",
        "by formula",
        "off",
        "bytes a pair",
        "keys / rows / gradients",
        "most sent",
        "ms",
        "of one rank",
    )
    table = Table(*head)
    for one in sizes:
        parts = " / ".join(f"{part:.2f}" for part in one["bytes_a_pair_of"].values())
        cells = (
            f"{one['pairs']:,.0f}",
            f"{one['rows']:,.0f}",
            f"{one['formula_rows']:,.0f}",
            f"{one['formula_off']:+.2%}",
        )
        rest = (
            f"{one['bytes_a_pair']:.1f}",
            parts,
            f"{one['most_sent']:.3f}",
            f"{1000 * one['step_seconds']:.1f}",
            f"{one['to_one_rank']:.2f}",
        )
        table.add_row(str(one["ranks"]), *cells, *rest)
    return table


if __name__ == "__main__":
    main()
