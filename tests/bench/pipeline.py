"""The pipeline beside DuckDB and polars: the same tables from the same log, in turn, each run a
process of its own.

`make bench-pipeline`, or `python -m tests.bench.pipeline --copies 1 10 --repetitions 3`. The
figures go to build/bench/pipeline.json. Every engine is timed from the start of its process to the
end, with what it writes on disk; the log lies in the operating system's cache.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import duckdb
import psutil
import tyro
from rich.console import Console
from rich.table import Table

from jobs.common.config import Project
from pipeline.log.source_paths import resolve
from pipeline.storage.files import write_text
from tests.bench.conditions import measured_on, spread, threads
from tests.bench.inputs import GLOBO, globo, multiplied, rules
from tests.bench.peer import SECONDS
from tests.bench.process import Usage, measured
from tests.bench.rules import Rules
from tests.bench.tables import Output, differences, of_peer, of_pipeline, unexplained

OURS = "m2grl"
PEERS = ("duckdb", "polars")
SPREAD = ("wall_seconds", "cpu_seconds", "peak_rss_bytes", "clicks_per_second")
NOTES = (
    "Besides the tables compared, m2grl writes events, rejects, held-out cases, figures, "
    "checksums; its tables have transaction logs, and "
    "the large ones a folder a day. The peers write plain Parquet.",
    (
        "Times are from the start of a process to its end. The log lies in the operating system's "
        "cache."
    ),
    (
        "A peer orders equal times by a hash of its own: `differences` counts the rows that differ "
        "for that."
    ),
)
PACKAGES = ("pyspark", "delta-spark", "duckdb", "polars", "pyarrow")


@dataclass(frozen=True)
class Options:
    """Time the pipeline beside DuckDB and polars."""

    copies: tuple[int, ...] = (1, 10)
    """How many times globo's 3 million clicks, each time by other users; one size after the
    other."""
    repetitions: tuple[int, ...] = (3,)
    """Rounds a size; one number for all sizes, or one for each."""
    engines: tuple[str, ...] = (OURS, *PEERS)
    """Who takes part, in the order of a round."""
    compare: int = 1
    """Up to this many copies the outputs are compared row by row."""
    memory_gib: float = 0.75 * psutil.virtual_memory().total / 2**30
    """A run that holds more is ended, and recorded as failed."""
    folder: Path = Path("build/bench")
    """Where the inputs, the outputs and the figures go."""
    keep: Annotated[bool, tyro.conf.FlagConversionOff] = False
    """Leave the outputs of the last round there."""


@dataclass(frozen=True)
class Size:
    """One size of the log."""

    copies: int
    clicks: Path
    rows: int


def main() -> None:
    """Exit status 0 only when every run ended well."""
    options = tyro.cli(Options, description=__doc__)
    project = globo()
    if not Path(resolve(project.source.path)).exists():
        sys.exit(
            f"bench-pipeline: there is no {resolve(project.source.path)}; set M2GRL_DATA to the "
            "folder that holds globo/"
        )
    repetitions = options.repetitions * (
        len(options.copies) if len(options.repetitions) == 1 else 1
    )
    report = conditions(project) | {"sizes": []}
    for copies, rounds in zip(options.copies, repetitions, strict=True):
        report["sizes"].append(one_size(project, options, copies, rounds))
        # After each size: a long benchmark that ends early leaves what it has.
        write_text(options.folder / "pipeline.json", json.dumps(report, indent=2) + "\n")
    show(report)
    if any("failed" in engine for size in report["sizes"] for engine in size["engines"].values()):
        sys.exit(
            "bench-pipeline: not every run ended well; build/bench/pipeline.json and the logs "
            "beside it say why"
        )


def conditions(project: Project) -> dict[str, Any]:
    """Where and with what is measured."""
    return measured_on(PACKAGES) | {"rules": asdict(rules(project, threads())), "notes": NOTES}


def one_size(project: Project, options: Options, copies: int, rounds: int) -> dict[str, Any]:
    """Rounds in which each engine runs once."""
    clicks = multiplied(Path(resolve(project.source.path)), copies, options.folder / "input")
    row_counts = duckdb.execute(
        f"SELECT count(*) FROM read_parquet('{clicks}/*.parquet')"
    ).fetchone()
    assert row_counts is not None  # an aggregate has a row
    size = Size(copies, clicks, row_counts[0])
    runs: dict[str, list[dict[str, Any]]] = {engine: [] for engine in options.engines}
    for number in range(rounds):
        for engine in options.engines:
            print(f"{size.rows:,} clicks, round {number + 1} of {rounds}: {engine} ...", flush=True)
            runs[engine].append(one_run(project, options, size, engine))
            print(f"  {runs[engine][-1]['wall_seconds']} s", flush=True)
    engines = {engine: summary(found, size.rows) for engine, found in runs.items()}
    _compare_with(engines, "duckdb")
    report = {
        "copies": copies,
        "clicks": size.rows,
        "rounds": rounds,
        "engines": engines,
        "row counts that differ": _unequal(engines),
    }
    if copies <= options.compare:
        report["differences"] = compared(project, options, size, engines)
    if not options.keep:
        shutil.rmtree(options.folder / "output", ignore_errors=True)
    return report


def one_run(project: Project, options: Options, size: Size, engine: str) -> dict[str, Any]:
    """Runs an engine once, in a process of its own and an empty folder."""
    output = (options.folder / "output" / engine).absolute()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    told = rules(project, threads())
    command = ours(size, output) if engine == OURS else peer(project, size, engine, output, told)
    environment = dict(os.environ) | {"POLARS_MAX_THREADS": str(told.threads)}
    log = options.folder / "logs" / f"{engine}-{size.copies}.log"
    return record(
        project,
        engine,
        output,
        measured(command, environment, round(options.memory_gib * 2**30), log),
    )


def ours(size: Size, output: Path) -> list[str]:
    """The command of a user who preprocesses this log and holds nothing out."""
    settings = {
        "--source.path": str(size.clicks.absolute()),
        "--output": str(output),
        "--shards.encodings": "windows",
        "--split.kind": "none",
        "--split.cut": "None",
        "--split.hours": "None",
    }
    return [
        "spark-submit",
        "jobs/preprocess.py",
        str(GLOBO),
        *(word for setting in settings.items() for word in setting),
    ]


def peer(project: Project, size: Size, engine: str, output: Path, told: Rules) -> list[str]:
    """The command of a peer."""
    articles = Path(resolve(project.source.items[0].path)).absolute()
    where = [str(size.clicks.absolute()), str(articles), str(output)]
    return [sys.executable, "-m", "tests.bench.peer", engine, *where, json.dumps(asdict(told))]


def record(project: Project, engine: str, output: Path, usage: Usage) -> dict[str, Any]:
    """What a run took and wrote."""
    found = {key: value for key, value in asdict(usage).items() if value is not None}
    if usage.failed:
        return found
    written = tables(project, engine, output)
    if engine == OURS:
        seconds = json.loads(
            (output / project.name / "statistics.json").read_text(encoding="utf-8")
        )["seconds"]
    else:
        seconds = json.loads((output / SECONDS).read_text(encoding="utf-8"))
    everything = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return found | {
        "seconds": seconds,
        "rows": written.rows,
        "bytes": written.bytes,
        "bytes_in_all": everything,
    }


def tables(project: Project, engine: str, output: Path) -> Output:
    """The tables that an engine wrote."""
    return of_pipeline(output / project.name) if engine == OURS else of_peer(output)


def summary(runs: list[dict[str, Any]], clicks: int) -> dict[str, Any]:
    """Least, median and greatest of an engine's runs; the runs themselves; `failed` where one did
    not end well."""
    failures = [run["failed"] for run in runs if "failed" in run]
    if failures:
        return {"failed": failures[0], "runs": runs}
    for run in runs:
        run["clicks_per_second"] = round(clicks / run["wall_seconds"])
    figures: dict[str, Any] = {name: spread([run[name] for run in runs]) for name in SPREAD}
    figures["microseconds_per_click"] = round(figures["wall_seconds"]["median"] / clicks * 1e6, 3)
    figures["cpu_microseconds_per_click"] = round(
        figures["cpu_seconds"]["median"] / clicks * 1e6, 3
    )
    figures["seconds"] = {
        step: spread([run["seconds"][step] for run in runs]) for step in runs[0]["seconds"]
    }
    return (
        figures
        | {name: runs[-1][name] for name in ("rows", "bytes", "bytes_in_all")}
        | {"runs": runs}
    )


def _compare_with(engines: dict[str, dict[str, Any]], base: str) -> None:
    """Adds what an engine takes as a multiple of the base."""
    if base not in engines or "failed" in engines[base]:
        return
    for figures in engines.values():
        for name in ("wall_seconds", "cpu_seconds"):
            if name in figures:
                figures[f"{name}_by_{base}"] = round(
                    figures[name]["median"] / engines[base][name]["median"], 2
                )


def _unequal(engines: dict[str, dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Tables of which the engines wrote different numbers of rows, with those."""
    rows = {engine: figures["rows"] for engine, figures in engines.items() if "rows" in figures}
    names = next(iter(rows.values()), {})
    counts = {name: {engine: rows[engine][name] for engine in rows} for name in names}
    return {name: found for name, found in counts.items() if len(set(found.values())) > 1}


def compared(
    project: Project, options: Options, size: Size, engines: dict[str, Any]
) -> dict[str, Any]:
    """Rows in which each peer's tables differ from ours, and those of them that equal times cannot
    explain."""
    connection = duckdb.connect()
    tied = _tied_users(connection, size.clicks)
    whole = [name for name in engines if "failed" not in engines[name]]
    written = {
        name: tables(project, name, (options.folder / "output" / name).absolute()) for name in whole
    }
    found: dict[str, Any] = {"users with clicks at equal times": len(tied)}
    for name in [name for name in written if name != OURS and OURS in written]:
        rows = differences(connection, written[OURS], written[name])
        found[name] = rows | {
            "not by equal times": unexplained(connection, written[OURS], written[name], tied)
        }
    return found


def _tied_users(connection: duckdb.DuckDBPyConnection, clicks: Path) -> list[str]:
    """Users who clicked different items at one time."""
    rows = connection.execute(f"""
        SELECT DISTINCT user_id::VARCHAR FROM read_parquet('{clicks}/*.parquet')
        GROUP BY user_id, click_timestamp HAVING count(DISTINCT click_article_id) > 1
    """).fetchall()
    return [row[0] for row in rows]


def show(report: dict[str, Any]) -> None:
    """A line for each size and engine."""
    columns = [
        "clicks",
        "engine",
        "wall s (min-max)",
        "CPU s",
        "peak GiB",
        "clicks/s",
        "us/click",
        "x DuckDB",
        "CPU x DuckDB",
        "GB written",
    ]
    table = Table(*columns)
    for line in _shown(report):
        table.add_row(*line)
    Console(width=160).print(table)


def _shown(report: dict[str, Any]) -> Iterator[list[str]]:
    for size in report["sizes"]:
        for engine, figures in size["engines"].items():
            if "failed" in figures:
                yield [
                    f"{size['clicks']:,}",
                    engine,
                    "failed: " + figures["failed"].splitlines()[0],
                ]
                continue
            wall, memory = figures["wall_seconds"], figures["peak_rss_bytes"]["median"] / 2**30
            yield [
                f"{size['clicks']:,}",
                engine,
                f"{wall['median']:.1f} ({wall['min']:.1f}-{wall['max']:.1f})",
                f"{figures['cpu_seconds']['median']:.1f}",
                f"{memory:.2f}",
                f"{figures['clicks_per_second']['median']:,.0f}",
                f"{figures['microseconds_per_click']:.2f}",
                str(figures.get("wall_seconds_by_duckdb", "")),
                str(figures.get("cpu_seconds_by_duckdb", "")),
                f"{figures['bytes_in_all'] / 1e9:.2f}",
            ]


if __name__ == "__main__":
    main()
