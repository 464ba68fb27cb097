"""Well-known items and their nearest neighbours, by readable names."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.config import Project
from jobs.evaluation.catalogue import Catalogue
from jobs.evaluation.config import Score
from jobs.evaluation.maps import COLUMNS
from jobs.reporting.records import Inputs, ReportError
from pipeline.manifest import Manifest, check_file

SHOWN, NEIGHBOURS = 12, 5
"""Items shown, and neighbours of each."""
CANDIDATES = 1000
"""Most clicked items among which those shown are chosen."""
Lists = dict[str, list[str]]
"""Id of a trigger -> ids of its neighbours, best first."""


@dataclass(frozen=True)
class Neighbourhood:
    """An item and what each map places next to it."""

    name: str
    value: str | None
    """The value of the first relation that it is linked to (its category); None where there is none."""
    clicks: int
    """Occurrences in the training part."""
    near: dict[Score, list[str]]
    """Score -> names, best first; empty where the item has no list."""


def neighbourhoods(inputs: Inputs) -> list[Neighbourhood]:
    """Raises ReportError or ManifestError where a map or the links cannot be read."""
    catalogue, project = inputs.catalogue, inputs.project
    candidates = np.argsort(-catalogue.counts, kind="stable")[:CANDIDATES].tolist()
    values = linked_values(project.paths.shards, inputs.manifest, candidates)
    rows = well_known(catalogue, candidates, values)
    ids = [str(catalogue.ids[row].as_py()) for row in rows]
    lists = {score: read_lists(project.paths.similar / f"{score}.parquet", ids) for score in written_scores(project)}
    names = {score: {trigger: _names(near, catalogue) for trigger, near in found.items()} for score, found in lists.items()}
    return [
        Neighbourhood(
            catalogue.name(row), values.get(row), int(catalogue.counts[row]), {score: names[score].get(trigger, []) for score in names}
        )
        for row, trigger in zip(rows, ids, strict=True)
    ]


def written_scores(project: Project) -> list[Score]:
    """The project's score and cosine, as far as their maps were written. Raises ReportError where neither was."""
    wanted: list[Score] = list(dict.fromkeys([project.evaluate.score, "cosine"]))
    written = [score for score in wanted if (project.paths.similar / f"{score}.parquet").exists()]
    if not written:
        raise ReportError(f"{project.paths.similar / f'{wanted[0]}.parquet'} is not there; run jobs/similar.py")
    return written


def well_known(catalogue: Catalogue, candidates: Sequence[int], values: Mapping[int, str]) -> list[int]:
    """Rows of up to SHOWN candidates, no name twice: first the leading one of each value, then the others; each time in order."""
    leading: dict[str | None, int] = {}
    for row in candidates:
        leading.setdefault(values.get(row), row)
    ordered = dict.fromkeys([*leading.values(), *candidates])
    by_name: dict[str, int] = {}
    for row in ordered:
        by_name.setdefault(catalogue.name(row), row)
    return list(by_name.values())[:SHOWN]


def linked_values(shards: Path, manifest: Manifest, items: Sequence[int]) -> dict[int, str]:
    """Row of an item -> id of its first value in the project's first relation; items without a value, or all, are left out."""
    if not manifest.relations:
        return {}
    relation = next(iter(manifest.relations.values()))
    first: dict[int, int] = {}
    for file in relation.streams[0].files:
        check_file(shards, file.path, file.bytes, file.sha256)
        table = pq.read_table(shards / file.path, columns=["centre", "contexts"], filters=[("centre", "in", items)])
        for centre, contexts in zip(table.column("centre").to_pylist(), table.column("contexts").to_pylist(), strict=True):
            first[centre] = contexts[0]
    listed = manifest.views[relation.view].vocabulary
    check_file(shards, listed.path, listed.bytes, listed.sha256)
    ids = pq.read_table(shards / listed.path, columns=["id"]).column("id")
    return {item: str(ids[value].as_py()) for item, value in first.items()}


def read_lists(path: Path, triggers: Sequence[str]) -> Lists:
    """The first NEIGHBOURS of some triggers in a map (jobs/evaluation/maps.py), without reading the others. Raises ReportError."""
    try:
        table = pq.read_table(path, columns=COLUMNS, filters=[("trigger_id", "in", triggers), ("rank", "<=", NEIGHBOURS)])
    except (pa.ArrowException, OSError) as error:
        raise ReportError(f"{path} cannot be read as a map ({error}); run jobs/similar.py again") from None
    lists = defaultdict(list)
    for row in table.sort_by("rank").to_pylist():
        lists[row["trigger_id"]].append(row["item_id"])
    return dict(lists)


def _names(ids: Sequence[str], catalogue: Catalogue) -> list[str]:
    """Titles; the id of an item that is no longer in the vocabulary."""
    rows = catalogue.rows(pa.array(ids, pa.string()))
    return [catalogue.name(int(row)) if row >= 0 else item for item, row in zip(ids, rows, strict=True)]
