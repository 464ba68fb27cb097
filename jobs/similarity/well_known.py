"""Well-known items: those whose neighbours are shown to people."""

from collections.abc import Mapping, Sequence

import numpy as np

from jobs.similarity.catalogue import Catalogue
from pipeline.contracts.sealed import check_file
from pipeline.contracts.shards import Manifest
from pipeline.storage.locations import Location, read_table

ITEMS_SHOWN, NEIGHBOURS = 12, 5
"""Items shown, and neighbours of each."""
CANDIDATES = 1000
"""Most clicked items among which those shown are chosen."""


def most_clicked(catalogue: Catalogue) -> list[int]:
    """Rows of the CANDIDATES items with the highest counts, ties by row."""
    rows: list[int] = np.argsort(-catalogue.counts, kind="stable")[:CANDIDATES].tolist()
    return rows


def well_known(
    catalogue: Catalogue, candidates: Sequence[int], values: Mapping[int, str]
) -> list[int]:
    """Rows of up to ITEMS_SHOWN candidates, no name twice: first the leading one of each value,
    then the others; each time in order."""
    leading: dict[str | None, int] = {}
    for row in candidates:
        leading.setdefault(values.get(row), row)
    ordered = dict.fromkeys([*leading.values(), *candidates])
    by_name: dict[str, int] = {}
    for row in ordered:
        by_name.setdefault(catalogue.name(row), row)
    return list(by_name.values())[:ITEMS_SHOWN]


def linked_values(shards: Location, manifest: Manifest, items: Sequence[int]) -> dict[int, str]:
    """Row of an item -> id of its first value in the project's first relation; items without a
    value, or all, are left out.

    Raises ManifestError where a file is absent or damaged.
    """
    if not manifest.relations:
        return {}
    relation = next(iter(manifest.relations.values()))
    first: dict[int, int] = {}
    for file in relation.streams[0].files:
        check_file(shards, file.path, file.bytes, file.sha256)
        table = read_table(
            shards / file.path, columns=["centre", "contexts"], filters=[("centre", "in", items)]
        )
        for centre, contexts in zip(
            table.column("centre").to_pylist(), table.column("contexts").to_pylist(), strict=True
        ):
            first[centre] = contexts[0]
    listed = manifest.views[relation.view].vocabulary
    check_file(shards, listed.path, listed.bytes, listed.sha256)
    ids = read_table(shards / listed.path, columns=["id"]).column("id")
    return {item: str(ids[value].as_py()) for item, value in first.items()}
