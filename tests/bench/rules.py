"""What the peers of the benchmark are told. Imports nothing of the project, so that a peer's start
costs nothing that is not its own."""

from dataclasses import dataclass

ITEM, CATEGORY = "item", "category"
"""The views of the shipped project globo."""
RELATION = "item_category"
TABLES = (
    "clean",
    "sessions",
    f"vocabulary/{ITEM}",
    f"vocabulary/{CATEGORY}",
    f"edges/{ITEM}",
    f"edges/{CATEGORY}",
    f"links/{RELATION}",
)
"""Folders of Parquet that every peer writes under its output, with the columns of
docs/contracts.md."""
STREAMS = (f"{ITEM}/windows", f"{CATEGORY}/windows", f"{RELATION}/pairs")
"""Folders of training shards, under `shards`."""


@dataclass(frozen=True)
class Rules:
    """The settings that the peers follow; times in milliseconds, the unit of globo's log. Nothing
    is held out."""

    minimum_stay: int
    """A known stay below this is dropped."""
    idle_gap: int
    """A gap of this long or longer splits a session."""
    merge_gap: int
    """App sessions less than this apart are merged."""
    minimum_item_count: int
    minimum_category_count: int
    unknown_categories: tuple[str, ...]
    """Values that mean "unknown"."""
    files: int
    """Files per stream."""
    row_group_rows: int
    seed: int
    threads: int
    memory: str = "4GB"
    """What DuckDB may hold before it spills: as much as Spark's driver. polars has no such
    limit."""
