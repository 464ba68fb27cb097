"""Judges a project's vectors on what was held out: `python jobs/evaluate.py CONFIG.toml [--map
NAME=PATH ...]`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.baselines.rivals import BASELINES, baselines
from jobs.common.config import Project, parse
from jobs.common.failures import failing_clearly
from jobs.evaluation.cases import read_heldout_cases
from jobs.evaluation.compare import compare, numbers_of_cases, together
from jobs.evaluation.models import OURS, Given, by_score
from jobs.reporting.tables import console, differences_table, figures_table
from jobs.similarity.catalogue import EvaluationError, read_vocabulary, with_held_out
from jobs.similarity.vectors import check_left_out, read_export
from pipeline.config import Section, fingerprint
from pipeline.contracts.scores import Evaluation
from pipeline.contracts.sealed import MANIFEST, ManifestError
from pipeline.storage.files import code_version, sha256

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
        record = run(project, options)
    if record is None:
        print(f"{JOB}: nothing is held out, so nothing is judged; [split] says what is")
        return
    tables = figures_table(record), differences_table(record)
    console().print(*tables, f"written to {project.paths.evaluation}")


def run(project: Project, options: Options) -> Evaluation | None:
    """Judges everything, and writes the record, which it returns. None where the project holds
    nothing out: an older record is removed.

    Raises ManifestError or EvaluationError naming the file that is absent, damaged or of another
    kind, or the option that cannot be read.
    """
    if project.split.kind == "none":
        project.paths.evaluation.unlink(missing_ok=True)
        return None
    maps, vectors = named("map", options.map), named("vectors", options.vectors)
    figures = figures_of(project, maps, vectors)
    given = {name: str(path) for name, path in (maps | vectors).items()}
    record = Evaluation.model_validate(judged_inputs(project) | {"given": given} | figures)
    record.write(project.paths.evaluation)
    return record


def figures_of(project: Project, maps: dict[str, Path], folders: dict[str, Path]) -> dict[str, Any]:
    """Numbers of cases and the figures of each model: the exported vectors by each score, the
    baselines, and the given maps and folders of vectors."""
    paths, settings = project.paths, project.evaluate
    catalogue = with_held_out(read_vocabulary(paths.shards), paths.heldout)
    given = Given(maps, folders)
    catalogue = given.known_to(catalogue)
    users, following, left_out = read_heldout_cases(
        paths.heldout, catalogue, settings.recent_items, settings.validation_users
    )
    vectors = read_export(paths.embeddings, paths.shards, catalogue)
    check_left_out(paths.embeddings, settings.validation_users)
    own = by_score(OURS, vectors, settings.scores, catalogue, settings)
    rivals = baselines(paths.shards, catalogue, users, settings)
    models = together(own | rivals, given.models(catalogue, settings))
    return {
        "k": settings.k,
        "cases": numbers_of_cases(users, following, left_out, catalogue, settings.rare_clicks),
        "models": compare(models, users, following, catalogue, settings, project.seed, BASELINES),
    }


def judged_inputs(project: Project) -> dict[str, Any]:
    """What the figures depend on, for the record: settings, seed, code, and the manifests of what
    was read."""
    paths, settings = project.paths, project.evaluate.model_dump(mode="json")
    return {
        "project": project.name,
        "seed": project.seed,
        "code_version": code_version(),
        "config": settings,
        "config_hash": fingerprint(settings),
        "inputs": {
            "shards": sha256(paths.shards / MANIFEST),
            "embeddings": sha256(paths.embeddings / MANIFEST),
            "heldout": sha256(paths.heldout / MANIFEST),
        },
    }


def named(option: str, texts: Sequence[str]) -> dict[str, Path]:
    """NAME=PATH texts by name. Raises EvaluationError naming the option and the text."""
    paths: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in paths:
            raise EvaluationError(f"--{option} {text}: give NAME=PATH, each name once")
        paths[name] = Path(path)
    return paths


if __name__ == "__main__":
    main()
