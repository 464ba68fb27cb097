"""Well-known items and their nearest neighbours, by readable names."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.common.config import Project
from jobs.common.evaluate import Score
from jobs.reporting.records import Inputs, ReportError
from jobs.similarity.catalogue import Catalogue
from jobs.similarity.maps import COLUMNS, EMBEDDINGS
from jobs.similarity.well_known import NEIGHBOURS, linked_values, most_clicked, well_known
from pipeline.contracts.sealed import MANIFEST
from pipeline.storage.files import sha256

Lists = dict[str, list[str]]
"""Id of a trigger -> ids of its neighbours, best first."""


@dataclass(frozen=True)
class Neighbourhood:
    """An item and what each map places next to it."""

    name: str
    value: str | None
    """The value of the first relation that it is linked to (its category); None where there is
    none."""
    clicks: int
    """Occurrences in the training part."""
    near: dict[Score, list[str]]
    """Score -> names, best first; empty where the item has no list."""


def neighbourhoods(inputs: Inputs) -> list[Neighbourhood]:
    """Raises ReportError or ManifestError where a map or the links cannot be read, or a map is of
    other vectors."""
    catalogue, project = inputs.catalogue, inputs.project
    candidates = most_clicked(catalogue)
    values = linked_values(project.paths.shards, inputs.manifest, candidates)
    rows = well_known(catalogue, candidates, values)
    ids = [str(catalogue.ids[row].as_py()) for row in rows]
    lists = {score: read_lists(project, score, ids) for score in written_scores(project)}
    names = {
        score: {trigger: _names(near, catalogue) for trigger, near in found.items()}
        for score, found in lists.items()
    }
    return [
        Neighbourhood(
            catalogue.name(row),
            values.get(row),
            int(catalogue.counts[row]),
            {score: names[score].get(trigger, []) for score in names},
        )
        for row, trigger in zip(rows, ids, strict=True)
    ]


def written_scores(project: Project) -> list[Score]:
    """The project's score and cosine, as far as their maps were written. Raises ReportError where
    neither was."""
    wanted: list[Score] = list(dict.fromkeys([project.evaluate.score, "cosine"]))
    written = [score for score in wanted if (project.paths.similar / f"{score}.parquet").exists()]
    if not written:
        raise ReportError(
            f"{project.paths.similar / f'{wanted[0]}.parquet'} is not there; run jobs/similar.py"
        )
    return written


def read_lists(project: Project, score: Score, triggers: Sequence[str]) -> Lists:
    """The first NEIGHBOURS of some triggers in a map (jobs/similarity/maps.py), without reading the
    others.

    Raises ReportError, also where the map is of other vectors than lie there now.
    """
    path = project.paths.similar / f"{score}.parquet"
    try:
        made_from = (pq.read_schema(path).metadata or {}).get(EMBEDDINGS.encode(), b"").decode()
        table = pq.read_table(
            path,
            columns=COLUMNS,
            filters=[("trigger_id", "in", triggers), ("rank", "<=", NEIGHBOURS)],
        )
    except (pa.ArrowException, OSError) as error:
        raise ReportError(
            f"{path} cannot be read as a map ({error}); run jobs/similar.py again"
        ) from None
    if made_from != sha256(project.paths.embeddings / MANIFEST):
        again = f"run jobs/similar.py again, with --evaluate.score {score}"
        raise ReportError(
            f"{path} is not a map of the vectors that {project.paths.embeddings} holds now; {again}"
        )
    lists = defaultdict(list)
    for row in table.sort_by("rank").to_pylist():
        lists[row["trigger_id"]].append(row["item_id"])
    return dict(lists)


def _names(ids: Sequence[str], catalogue: Catalogue) -> list[str]:
    """Titles; the id of an item that is no longer in the vocabulary."""
    rows = catalogue.rows(pa.array(ids, pa.string()))
    return [
        catalogue.name(int(row)) if row >= 0 else item for item, row in zip(ids, rows, strict=True)
    ]
