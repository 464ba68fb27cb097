"""Writes a project's similarity map and shows some of it: `python jobs/similar.py CONFIG.toml [--items ID ...]`."""

import sys
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from jobs.config import Project, parse
from jobs.evaluation.catalogue import Catalogue, EvaluationError, Ints, read_vocabulary
from jobs.evaluation.maps import write_map
from jobs.evaluation.report import console, neighbours
from jobs.evaluation.search import similarity_map
from jobs.evaluation.vectors import read_export
from pipeline.config import Section
from pipeline.manifest import ManifestError

JOB = "similar.py"
SHOWN, NEIGHBOURS = 12, 5
"""Items shown, and neighbours of each."""


class Options(Section):
    """Writes each item's nearest items by `evaluate.score`, and shows those of well-known items."""

    items: tuple[str, ...] = ()
    """Ids of items to show instead of the most clicked ones."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the job; exits with 1 and one message where it cannot be done."""
    project, options = parse(JOB, Options(), arguments)
    try:
        run(project, options.items)
    except (ManifestError, EvaluationError) as error:
        sys.exit(f"{JOB}: {error}")


def run(project: Project, items: Sequence[str]) -> None:
    """Searches, writes the map, shows some lists."""
    paths, score = project.paths, project.evaluate.score
    catalogue = read_vocabulary(paths.shards)
    shown_items = asked_for(catalogue, items) if items else well_known(catalogue)
    similar = similarity_map(score, read_export(paths.embeddings, paths.shards, catalogue), catalogue, project.evaluate)
    path = paths.similar / f"{score}.parquet"
    write_map(path, similar, catalogue)
    console().print(neighbours(similar, catalogue, shown_items, NEIGHBOURS), f"written to {path}")


def asked_for(catalogue: Catalogue, items: Sequence[str]) -> Ints:
    """Rows of the given ids; raises EvaluationError naming those that have no vector."""
    rows = catalogue.rows(pa.array(items, pa.string()))
    if unknown := [item for item, row in zip(items, rows, strict=True) if row < 0]:
        raise EvaluationError(f"--items {' '.join(unknown)}: not in the vocabulary; ids are those of the click log, kept by [views.item]")
    return rows


def well_known(catalogue: Catalogue) -> Ints:
    """The most clicked items, one a title."""
    by_name: dict[str, int] = {}
    for row in np.argsort(-catalogue.counts, kind="stable"):
        by_name.setdefault(catalogue.name(int(row)), int(row))
        if len(by_name) == SHOWN:
            break
    return np.array(list(by_name.values()), np.int32)


if __name__ == "__main__":
    main()
