"""Writes a project's similarity map and shows some of it: `python jobs/similar.py CONFIG.toml
[--items ID ...]`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from jobs.common.arrays import Int32Array
from jobs.common.config import Project, parse
from jobs.common.failures import failing_clearly
from jobs.reporting.tables import console, neighbours_table
from jobs.similarity.catalogue import Catalogue, EvaluationError, read_vocabulary
from jobs.similarity.maps import EMBEDDINGS, ItemMap, write_map
from jobs.similarity.scores import similarity_map
from jobs.similarity.vectors import read_export
from jobs.similarity.well_known import NEIGHBOURS, linked_values, most_clicked, well_known
from pipeline.config import Section, fingerprint
from pipeline.contracts.sealed import MANIFEST, ManifestError
from pipeline.contracts.shards import Manifest
from pipeline.storage.files import sha256
from pipeline.storage.locations import Location

JOB = "similar.py"


class Options(Section):
    """Writes each item's nearest items by `evaluate.score`, and shows those of well-known items."""

    items: tuple[str, ...] = ()
    """Ids of items to show instead of the most clicked ones."""


@dataclass(frozen=True)
class WrittenMap:
    """A similarity map and the file that holds it."""

    path: Path
    similar: ItemMap
    catalogue: Catalogue
    shown: Int32Array
    """Rows of the items whose lists are shown to people."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the job; exits with 1 and one message where it cannot be done."""
    project, options = parse(JOB, Options(), arguments)
    with failing_clearly(JOB, project.paths.similar, ManifestError, EvaluationError):
        written = run(project, options)
        table = neighbours_table(written.similar, written.catalogue, written.shown, NEIGHBOURS)
        console().print(table, f"written to {written.path}")


def run(project: Project, options: Options) -> WrittenMap:
    """Searches and writes the map. Raises ManifestError or EvaluationError naming what is absent,
    damaged or unknown, before any work."""
    paths, score = project.paths, project.evaluate.score
    catalogue = read_vocabulary(paths.shards)
    if options.items:
        shown = asked_for(catalogue, options.items)
    else:
        shown = leading_items(paths.shards, catalogue)
    vectors = read_export(paths.embeddings, paths.shards, catalogue)
    similar = similarity_map(score, vectors, catalogue, project.evaluate)
    path = paths.similar / f"{score}.parquet"
    write_map(path, similar, catalogue, identity(project))
    return WrittenMap(path, similar, catalogue, shown)


def asked_for(catalogue: Catalogue, items: Sequence[str]) -> Int32Array:
    """Rows of the given ids; raises EvaluationError naming those that have no vector."""
    rows = catalogue.rows(pa.array(items, pa.string()))
    if unknown := [item for item, row in zip(items, rows, strict=True) if row < 0]:
        raise EvaluationError(
            f"--items {' '.join(unknown)}: not in the vocabulary; ids are those of the click "
            "log, kept by [views.item]"
        )
    return rows


def leading_items(shards: Location, catalogue: Catalogue) -> Int32Array:
    """The well-known items that the report shows too."""
    candidates = most_clicked(catalogue)
    values = linked_values(shards, Manifest.read(shards), candidates)
    return np.array(well_known(catalogue, candidates, values), np.int32)


def identity(project: Project) -> dict[str, str]:
    """What a map is made from, for its metadata: the manifest of the vectors, score, settings and
    seed."""
    return {
        EMBEDDINGS: sha256(project.paths.embeddings / MANIFEST),
        "score": project.evaluate.score,
        "config_hash": fingerprint(project.evaluate.model_dump(mode="json")),
        "seed": str(project.seed),
    }


if __name__ == "__main__":
    main()
