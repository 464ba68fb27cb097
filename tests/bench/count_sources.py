"""The figures of a project beside an independent count: `python -m tests.bench.count_sources NAME
[--statistics FILE]`.

NAME is a project of jobs/configs (globo) or a TOML file. Exit status 1 where a figure differs.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.common.config import load
from tests.bench.recount import Recount

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
COUNTED = ("funnel", "parts", "sequences", "nodes", "edges", "links", "pairs")


def main() -> None:
    """Counts, prints both, and exits with 1 where they differ."""
    parser = argparse.ArgumentParser(prog="count_sources", description=__doc__)
    parser.add_argument("name", help="a project of jobs/configs, or a TOML file")
    parser.add_argument(
        "--statistics",
        type=Path,
        help="what the pipeline counted; default: the project's statistics.json",
    )
    given = parser.parse_args()
    named = Path(given.name)
    project = load([named if named.suffix == ".toml" else CONFIGS / f"{given.name}.toml"])
    path = given.statistics or Path(project.output) / project.name / "statistics.json"
    if not path.exists():
        sys.exit(
            f"count_sources: there is no {path}; run jobs/preprocess.py first, or name another "
            "with --statistics"
        )
    wrong = show(json.loads(path.read_text(encoding="utf-8")), Recount(project).run())
    if wrong:
        sys.exit(f"count_sources: {project.name}: {len(wrong)} figures differ: {', '.join(wrong)}")


def show(pipeline: Mapping[str, Any], count: Mapping[str, Any]) -> list[str]:
    """Prints both side by side; returns the names of the figures that differ."""
    lines, wrong = Table("figure", "pipeline", "count", ""), []
    for name, (ours, theirs) in side_by_side(pipeline, count).items():
        if ours != theirs:
            wrong.append(name)
        lines.add_row(name, _shown(ours), _shown(theirs), "" if ours == theirs else "differs")
    Console(width=120).print(lines)
    return wrong


def side_by_side(
    pipeline: Mapping[str, Any], count: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Each figure counted, as the pipeline and as the count has it; what only one names is nothing,
    0, to the other."""
    ours, theirs = (
        dict(_flat({key: figures[key] for key in COUNTED if key in figures}))
        for figures in (pipeline, count)
    )
    names = [
        *theirs,
        *(
            name
            for name in ours
            if name not in theirs and name.split(": ")[0] in ("funnel",) and "rejected" in name
        ),
    ]
    return {name: (ours.get(name, 0), theirs.get(name, 0)) for name in names}


def _flat(figures: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}: ")
        else:
            yield f"{before}{key}", value


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
