"""The contract of statistics.json: what a run of the pipeline counted.

The funnel from raw rows to pairs, the paper's Table 1, and histograms. The pipeline writes it; the
report reads it.
"""

import json
from typing import Any

from pydantic import Field

from pipeline.contracts.sealed import OpenRecord
from pipeline.storage.files import write_text
from pipeline.storage.locations import Location

TRAIN, TEST, UNUSED = "train", "test", "unused"
"""Parts of the split."""


class Funnel(OpenRecord):
    """How many rows each rule of the cleaning took."""

    raw_rows: int = Field(alias="raw rows")
    rejected: dict[str, int]
    """Reason -> rows that are no events."""
    flaws: dict[str, int] = Field(default_factory=dict)
    """Events that lost a field which could not be."""
    app_events: int = Field(default=0, alias="app events")
    """Events that tell of the app's opening or closing."""
    dropped: dict[str, int]
    """Reason -> events that are no clicks."""
    clicks: int
    known_stay: int = Field(alias="events with a known stay")
    item_tables: dict[str, dict[str, int]] = Field(default_factory=dict, alias="item tables")
    """Table -> its rows, and those of them that say nothing, by reason."""
    items: dict[str, int] = Field(default_factory=dict)
    """How far the item tables know the items that are clicked."""


class SplitPart(OpenRecord):
    """One part of the split."""

    clicks: int
    users: int
    sessions: int
    first: str
    last: str


class Weighted(OpenRecord):
    """Edges or links."""

    distinct: int
    weight: int


class ViewFunnel(OpenRecord):
    """What became of the training clicks in a view."""

    without: int = Field(alias="without a value")
    rare: int = Field(alias="below minimum_count")
    beyond_top: int = Field(alias="beyond top")
    known: int = Field(alias="in vocabulary")
    repeated: int = Field(alias="same node as before")
    alone: int = Field(alias="alone in session")
    left: int = Field(alias="in sequences")


class Unusual(OpenRecord):
    """A value that stands out in a histogram."""

    value: float
    count: int
    times: float | None
    """How many times as dense its bin is as those beside it; None: they are empty."""


class Histogram(OpenRecord):
    """How often values lie in bins (pipeline/figures/histograms.py)."""

    unit: str
    of: str
    count: int
    bins: list[tuple[int, int, int]]
    """From, to, count; without empty bins."""
    unusual: list[Unusual]


class Statistics(OpenRecord):
    """All that a run counted."""

    name: str = ""
    seed: int
    seconds: dict[str, float]
    """Step -> how long it took."""
    funnel: Funnel
    changed: dict[str, int] = Field(default_factory=dict, alias="items whose value changed")
    """View -> items with different values at different times, of which the latest counts."""
    nodes: dict[str, int]
    left_out: dict[str, dict[str, int]] = Field(default_factory=dict, alias="nodes left out")
    """View -> limit -> nodes beyond it."""
    edges: dict[str, Weighted]
    links: dict[str, Weighted]
    pairs: dict[str, int]
    parts: dict[str, SplitPart]
    sequences: dict[str, ViewFunnel] | None = None
    histograms: dict[str, Histogram] | None = None
    """None: an older run did not record them."""

    @property
    def train(self) -> SplitPart:
        """The part that was learned from."""
        return self.parts[TRAIN]

    def write(self, path: Location) -> None:
        """Writes the file whole."""
        write_text(path, json.dumps(self.as_json(), indent=2) + "\n")

    def as_json(self) -> dict[str, Any]:
        """The file's keys in their order. One that nothing was counted for is left out."""
        return self.model_dump(by_alias=True, exclude_unset=True)
