"""What the page says of the log: where its rows went, and what stays, gaps, sessions and graphs are
like in it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from markupsafe import Markup

from jobs.reporting import charts
from jobs.reporting.charts import TIME_UNIT, Mark
from jobs.reporting.records import Inputs
from pipeline.config import ITEM_VIEW
from pipeline.contracts.shards import Manifest
from pipeline.contracts.statistics import TEST, UNUSED, Histogram, Statistics, Unusual

FATES = {
    TEST: "held out for the evaluation",
    UNUSED: "used for nothing: after the cut in a session begun before it, or after the test part",
}
"""Part of the split that nothing is learned from -> why."""
MARKS = {
    "stay": ("clean", "minimum_stay_seconds", "shortest kept"),
    "idle gap": ("sessions", "idle_gap_seconds", "new session"),
}
"""Histogram -> the setting that is drawn into it, and what it does."""
QUANTILES = {0.5: "half", 0.99: "99 %"}


@dataclass(frozen=True)
class FunnelRow:
    """A stage of the funnel, with what is left, or a reason for which rows left it."""

    text: str
    left: int | None = None
    lost: int | None = None
    of: int | None = None
    """Raw rows, where the row counts a part of them."""

    @property
    def percent(self) -> float:
        """Length of the row's bar; 0 where it has none."""
        return 100 * (self.left or self.lost or 0) / self.of if self.of else 0.0


@dataclass(frozen=True)
class ViewRow:
    """From the training clicks to the pairs of a view."""

    name: str
    without: int
    """Clicks on items that have no value there."""
    rare: int
    """Clicks on nodes that are clicked too seldom."""
    beyond_top: int
    repeated: int
    alone: int
    left: int
    source: str
    """What the pairs are of: these sessions, or walks or edges of the graph that they make."""
    pairs: int


@dataclass(frozen=True)
class Picture:
    """A histogram as the page shows it."""

    title: str
    caption: str
    unusual: list[str]
    chart: Markup | None


def funnel(statistics: Statistics, manifest: Manifest) -> list[FunnelRow]:
    """From raw rows to the pairs of the item view, each loss with its reason."""
    counts = statistics.funnel
    rejected, raw = sum(counts.rejected.values()), counts.raw_rows
    rows = [FunnelRow("raw rows", left=raw, of=raw)]
    rows += [
        FunnelRow(f"rejected: {reason}", lost=lost, of=raw)
        for reason, lost in counts.rejected.items()
    ]
    rows += [FunnelRow("events", left=raw - rejected, of=raw)]
    rows += (
        [FunnelRow("dropped: tells of the app, not of an item", lost=counts.app_events, of=raw)]
        if counts.app_events
        else []
    )
    rows += [
        FunnelRow(f"dropped: {reason}", lost=lost, of=raw)
        for reason, lost in counts.dropped.items()
    ]
    rows += [FunnelRow("clicks", left=counts.clicks, of=raw)]
    rows += [
        FunnelRow(FATES[name], lost=part.clicks, of=raw)
        for name, part in statistics.parts.items()
        if name in FATES
    ]
    rows += [FunnelRow("training clicks", left=statistics.train.clicks, of=raw)]
    rows += _sequence_rows(statistics, manifest)
    source = manifest.views[ITEM_VIEW].streams[0].source
    pairs = "skip-gram pairs of the item view" + (
        "" if source == "sessions" else f", from {source}"
    )
    return [*rows, FunnelRow(pairs, left=statistics.pairs[ITEM_VIEW])]


def _sequence_rows(statistics: Statistics, manifest: Manifest) -> Iterator[FunnelRow]:
    """From training clicks to item sequences; in one step where the record is an older one."""
    clicks, raw, stream = (
        statistics.train.clicks,
        statistics.funnel.raw_rows,
        manifest.views[ITEM_VIEW].streams[0],
    )
    if statistics.sequences is not None:
        found = statistics.sequences[ITEM_VIEW]
        yield FunnelRow("item clicked fewer than minimum_count times", lost=found.rare, of=raw)
        if found.beyond_top:
            yield FunnelRow("item not among the top ones", lost=found.beyond_top, of=raw)
        yield FunnelRow("clicks in the vocabulary", left=found.known, of=raw)
        yield FunnelRow("same item as the click before", lost=found.repeated, of=raw)
        yield FunnelRow("alone in its session", lost=found.alone, of=raw)
        yield FunnelRow("clicks in item sequences", left=found.left, of=raw)
    elif stream.source == "sessions":
        reason = (
            "item outside the vocabulary, same item as the click before, or alone in its session"
        )
        yield FunnelRow(reason, lost=clicks - stream.tokens, of=raw)
        yield FunnelRow("clicks in item sequences", left=stream.tokens, of=raw)


def items(statistics: Statistics) -> Iterator[str]:
    """What the item tables say, in sentences; none where there are no such tables."""
    for table, counts in statistics.funnel.item_tables.items():
        lost = ", ".join(
            f"{rows:,} rejected: {reason}"
            for reason, rows in counts.items()
            if rows and reason != "rows"
        )
        yield f"{table}: {counts['rows']:,} rows, {lost or 'none rejected'}."
    for what, count in statistics.funnel.items.items():
        yield f"{count:,} items {what}."
    for view, count in statistics.changed.items():
        yield f"{count:,} items whose {view} changed; the latest counts."


def views(statistics: Statistics, manifest: Manifest) -> list[ViewRow]:
    """The end of the funnel of each view; empty where it was not recorded."""
    return [
        ViewRow(
            name=name,
            without=found.without,
            rare=found.rare,
            beyond_top=found.beyond_top,
            repeated=found.repeated,
            alone=found.alone,
            left=found.left,
            source=manifest.views[name].streams[0].source,
            pairs=statistics.pairs[name],
        )
        for name, found in (statistics.sequences or {}).items()
    ]


def pictures(inputs: Inputs) -> list[Picture]:
    """All histograms; empty where none was recorded."""
    return [
        _picture(name, found, _mark(name, inputs.manifest))
        for name, found in (inputs.statistics.histograms or {}).items()
    ]


def _picture(name: str, found: Histogram, mark: Mark | None) -> Picture:
    title = name.replace("degree/", "degree in the graph of view ").capitalize()
    chart = (
        charts.histogram(found, mark, f"{title}: histogram of {found.count:,} {found.of}")
        if found.count
        else None
    )
    return Picture(
        title, _caption(found), [unusual_text(found, each) for each in found.unusual], chart
    )


def _mark(name: str, manifest: Manifest) -> Mark | None:
    section, key, text = MARKS.get(name, ("", "", ""))
    value = manifest.config.get(section, {}).get(key)
    if value is None or (name == "stay" and manifest.config["clean"].get("stay") == "absent"):
        return None
    return Mark(float(value), text)


def _caption(found: Histogram) -> str:
    """How many values there are, and how large most of them."""
    said = [f"{found.count:,} {found.of}"]
    said += [
        f"{text} under {_value(_below(found, share), found.unit)}"
        for share, text in QUANTILES.items()
        if found.count
    ]
    alone = (
        next((count for low, _, count in found.bins if low == 0), 0) if found.of == "nodes" else 0
    )
    return "; ".join([*said, *([f"{alone:,} have no edge"] if alone else [])])


def _below(found: Histogram, share: float) -> float:
    """The upper edge of the bin up to which this share of the values lies."""
    counts = accumulate(count for _, _, count in found.bins)
    return next(
        high
        for (_, high, _), count in zip(found.bins, counts, strict=True)
        if count >= share * found.count
    )


def unusual_text(found: Histogram, value: Unusual) -> str:
    """A sentence on a value that stands out."""
    beside = (
        "where there is nothing beside it"
        if value.times is None
        else f"where values lie {value.times:,g} times as close as beside it"
    )
    share = 100 * value.count / found.count
    return (
        f"{share:.1f} % ({value.count:,} of {found.count:,} {found.of}) are exactly "
        f"{_value(value.value, found.unit)}, {beside}"
    )


def _value(value: float, unit: str) -> str:
    return charts.time_text(value) if unit == TIME_UNIT else f"{value:,g}"
