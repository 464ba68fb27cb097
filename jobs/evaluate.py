"""Judges a project's vectors on what was held out: `python jobs/evaluate.py CONFIG.toml [--map
NAME=PATH ...]`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.common.config import Project, parse
from jobs.common.failures import failing_clearly
from jobs.evaluation.compare import evaluate
from jobs.reporting.tables import console, differences, table
from jobs.similarity.catalogue import EvaluationError
from pipeline.config import Section, fingerprint
from pipeline.contracts.shards import MANIFEST, ManifestError
from pipeline.storage.files import code_version, sha256, write_text
from pipeline.storage.locations import Location

JOB = "evaluate.py"


class Options(Section):
    """Judges the exported vectors by each score, beside popularity, Item-CF and any given model,
    and writes evaluation.json."""

    map: tuple[str, ...] = ()
    """NAME=PATH of item-to-item maps to judge too: Parquet with trigger_id, item_id, rank (from 1),
    score."""
    vectors: tuple[str, ...] = ()
    """NAME=FOLDER of vectors to judge too: item.parquet (id, vector) and, for the conditional
    score, item.context.parquet."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the job; exits with 1 and one message where it cannot be done."""
    project, options = parse(JOB, Options(), arguments)
    with failing_clearly(JOB, project.paths.evaluation, ManifestError, EvaluationError):
        if project.split.kind == "none":
            project.paths.evaluation.unlink(missing_ok=True)
            print(f"{JOB}: nothing is held out, so nothing is judged; [split] says what is")
            return
        record = run(project, named("map", options.map), named("vectors", options.vectors))
    shown = console()
    shown.print(table(record), differences(record), f"written to {project.paths.evaluation}")


def run(project: Project, maps: dict[str, Path], vectors: dict[str, Path]) -> dict[str, Any]:
    """Judges everything and writes the record."""
    paths = project.paths
    figures = evaluate(
        paths.shards, paths.embeddings, paths.heldout, maps, vectors, project.evaluate, project.seed
    )
    folders: dict[str, Location] = {
        "shards": paths.shards,
        "embeddings": paths.embeddings,
        "heldout": paths.heldout,
    }
    record = {
        "project": project.name,
        "seed": project.seed,
        "code_version": code_version(),
        "config": project.evaluate.model_dump(mode="json"),
        "config_hash": fingerprint(project.evaluate.model_dump(mode="json")),
        "inputs": {name: sha256(folder / MANIFEST) for name, folder in folders.items()},
        "given": {name: str(path) for name, path in (maps | vectors).items()},
        **figures,
    }
    write_text(paths.evaluation, json.dumps(record, indent=2, allow_nan=False) + "\n")
    return record


def named(option: str, given: Sequence[str]) -> dict[str, Path]:
    """NAME=PATH texts by name. Raises EvaluationError naming the option and the text."""
    found: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in found:
            raise EvaluationError(f"--{option} {text}: give NAME=PATH, each name once")
        found[name] = Path(path)
    return found


if __name__ == "__main__":
    main()
