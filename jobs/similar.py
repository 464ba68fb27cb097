"""Writes a project's similarity map and shows some of it: `python jobs/similar.py CONFIG.toml
[--items ID ...]`."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from jobs.common.config import Project, parse
from jobs.common.failures import failing_clearly
from jobs.reporting.tables import console, neighbours
from jobs.similarity.catalogue import Catalogue, EvaluationError, Ints, read_vocabulary
from jobs.similarity.maps import EMBEDDINGS, write_map
from jobs.similarity.scores import similarity_map
from jobs.similarity.vectors import read_export
from jobs.similarity.well_known import NEIGHBOURS, linked_values, most_clicked, well_known
from pipeline.config import Section, fingerprint
from pipeline.contracts.shards import MANIFEST, ManifestError, read_manifest
from pipeline.storage.files import sha256
from pipeline.storage.locations import Location

JOB = "similar.py"


class Options(Section):
    """Writes each item's nearest items by `evaluate.score`, and shows those of well-known items."""

    items: tuple[str, ...] = ()
    """Ids of items to show instead of the most clicked ones."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the job; exits with 1 and one message where it cannot be done."""
    project, options = parse(JOB, Options(), arguments)
    with failing_clearly(JOB, project.paths.similar, ManifestError, EvaluationError):
        run(project, options.items)


def run(project: Project, items: Sequence[str]) -> None:
    """Searches, writes the map, shows some lists."""
    paths, score = project.paths, project.evaluate.score
    catalogue = read_vocabulary(paths.shards)
    shown_items = asked_for(catalogue, items) if items else leading(paths.shards, catalogue)
    similar = similarity_map(
        score, read_export(paths.embeddings, paths.shards, catalogue), catalogue, project.evaluate
    )
    path = paths.similar / f"{score}.parquet"
    write_map(path, similar, catalogue, identity(project))
    console().print(neighbours(similar, catalogue, shown_items, NEIGHBOURS), f"written to {path}")


def asked_for(catalogue: Catalogue, items: Sequence[str]) -> Ints:
    """Rows of the given ids; raises EvaluationError naming those that have no vector."""
    rows = catalogue.rows(pa.array(items, pa.string()))
    if unknown := [item for item, row in zip(items, rows, strict=True) if row < 0]:
        raise EvaluationError(
            f"--items {' '.join(unknown)}: not in the vocabulary; ids are those of the click "
            "log, kept by [views.item]"
        )
    return rows


def leading(shards: Location, catalogue: Catalogue) -> Ints:
    """The well-known items that the report shows too."""
    candidates = most_clicked(catalogue)
    values = linked_values(shards, read_manifest(shards), candidates)
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
