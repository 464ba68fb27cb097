"""Charts as SVG that stands inside the page: its colours are those of the page's style sheet, its
text is text."""

import io
import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from pipeline.contracts.scores import Estimate
from pipeline.contracts.statistics import Histogram

COLOURS = {
    "ink": "#000001",
    "muted": "#000002",
    "rule": "#000003",
    "model": "#000004",
    "baseline": "#000005",
    "given": "#000006",
}
"""Name of a colour in the style sheet -> what matplotlib draws with, to be replaced."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",  # the same chart is the same text
    "text.parse_math": False,  # a dollar in a name is a dollar
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["rule"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.5,
    "xtick.color": COLOURS["rule"],
    "ytick.color": COLOURS["rule"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "figure.constrained_layout.use": True,
}
CHART_WIDTH, ROW_HEIGHT, COURSE_HEIGHT = 3.7, 0.27, 2.9
"""Inches: of a chart that fills a phone, of a model's row, of a task's two curves."""

WIDE, HIGH = 5.2, 2.5
"""Inches: of a histogram."""
TIME_UNIT = "seconds"
"""Unit of times in a histogram (pipeline/figures/histograms.py, which needs Spark)."""
SPLIT = 120
"""Seconds up to which a histogram of times has a bar for each."""
TICKS = {
    120: "2 min",
    600: "10 min",
    3600: "1 h",
    6 * 3600: "6 h",
    86_400: "1 d",
    7 * 86_400: "7 d",
    60 * 86_400: "60 d",
    365 * 86_400: "1 y",
}
TICKS |= {10 * 365 * 86_400: "10 y"}
NAMED_VALUES = 5
"""Values that are named in a histogram, the most frequent ones."""
COARSE = (15, 20, 25, 30, 40, 50, 60, 80, 100)
"""Edges of drawn bins of numbers, above which single numbers would be hairlines."""
_UNITS = ((365 * 86_400, "y"), (86_400, "d"), (3600, "h"), (60, "min"))

DrawnBin = tuple[float, float, int]
"""From, to, count."""

LONGEST_NAME = 24
"""Characters of a model's name beside its dot."""


@dataclass(frozen=True)
class Bar:
    """A model's figure in a chart of intervals."""

    name: str
    kind: str
    """A colour's name: model, baseline or given."""
    figure: Estimate


def interval_chart(bars: Sequence[Bar], label: str) -> Markup | None:
    """Dots with 95 % intervals in per cent, one row a model; none where no model has the figure."""
    known = [bar for bar in bars if bar.figure.value is not None]
    if not known:
        return None
    with mpl.rc_context(STYLE):
        drawing = Drawing(figsize=(CHART_WIDTH, 0.5 + ROW_HEIGHT * len(bars)))
        axes = drawing.add_subplot()
        for row, bar in enumerate(bars):
            _dot(axes, row, bar)
        axes.set_yticks(range(len(bars)), [_cut(bar.name) for bar in bars])
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0, pad=8, labelcolor=COLOURS["ink"])
        axes.spines["left"].set_visible(False)
        return _svg(drawing, label)


def _cut(name: str) -> str:
    """A name that leaves room for the dots."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _dot(axes: Axes, row: int, bar: Bar) -> None:
    figure, colour = bar.figure, COLOURS[bar.kind]
    if figure.value is None:
        return
    if figure.low is not None and figure.high is not None:
        axes.plot(
            [100 * figure.low, 100 * figure.high],
            [row, row],
            color=colour,
            linewidth=2,
            solid_capstyle="butt",
        )
    axes.plot(100 * figure.value, row, "o", color=colour, markersize=5, clip_on=False)


def course(
    steps: Sequence[int], curves: Mapping[str, Sequence[float | None]], label: str
) -> Markup:
    """Curves of one task over the steps, below each other, each with its own scale."""
    with mpl.rc_context(STYLE):
        drawing = Drawing(figsize=(CHART_WIDTH * 0.62, COURSE_HEIGHT))
        axes = drawing.subplots(len(curves), sharex=True, squeeze=False)[:, 0]
        for pane, (name, values) in zip(axes, curves.items(), strict=True):
            known = [math.nan if value is None else value for value in values]
            pane.plot(
                steps,
                known,
                color=COLOURS["model"],
                linewidth=1.5,
                marker="o" if len(steps) == 1 else None,
                markersize=4,
            )
            pane.set_title(name, loc="left", fontsize=9, color=COLOURS["muted"])
            pane.yaxis.set_major_locator(MaxNLocator(4))
        axes[-1].set_xlim(0, max(steps))
        axes[-1].xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes[-1].set_xlabel("steps")
        return _svg(drawing, label)


@dataclass(frozen=True)
class Mark:
    """A setting that is drawn into a histogram."""

    value: float
    text: str


def histogram(found: Histogram, mark: Mark | None, label: str) -> Markup:
    """Shares of the values: of times, each second up to two minutes, and beside them longer times
    on a logarithmic axis; of numbers, on two logarithmic axes. Bins that hold an unusual value are
    of another colour."""
    with mpl.rc_context(STYLE):
        drawing = Drawing(figsize=(WIDE, HIGH))
        if found.unit == TIME_UNIT:
            short, long = drawing.subplots(1, 2, width_ratios=(3, 2))
            _seconds(short, found, mark)
            _long_times(long, found, mark)
        else:
            _numbers(drawing.add_subplot(), found)
        return _svg(drawing, label)


def _seconds(axes: Axes, found: Histogram, mark: Mark | None) -> None:
    bins = [each for each in found.bins if each[1] <= SPLIT]
    heights = [100 * count / found.count for _, _, count in bins]
    axes.set_yscale("log")  # a filler may be hundreds of times as frequent as what people do
    axes.bar(
        [low for low, _, _ in bins], heights, width=1, align="edge", color=_colours(found, bins)
    )
    # A few rare times shall not flatten all others.
    axes.set_ylim(bottom=max(min(heights, default=1.0), median_low(heights or [1.0]) / 30) / 2)
    axes.set_xlim(0, SPLIT)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("seconds")
    axes.set_ylabel("% a second")
    _shares(axes)
    _finish(axes, bins, heights, found, mark if mark and mark.value < SPLIT else None)


def _long_times(axes: Axes, found: Histogram, mark: Mark | None) -> None:
    bins = [each for each in found.bins if each[0] >= SPLIT]
    heights = [100 * count / found.count / math.log2(high / low) for low, high, count in bins]
    axes.set_xscale("log")
    axes.bar(
        [low for low, _, _ in bins],
        heights,
        width=[high - low for low, high, _ in bins],
        align="edge",
        color=_colours(found, bins),
    )
    end = max([3600.0 * 2, *(high for _, high, _ in bins)])
    axes.set_xlim(SPLIT, end)
    wanted = [at for at in TICKS if at <= end]
    shown = wanted[:: max(1, math.ceil(len(wanted) / 4))]
    axes.set_xticks(shown, [TICKS[at] for at in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("longer, logarithmic")
    axes.set_ylabel("% a doubling")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    _finish(axes, bins, heights, found, mark if mark and mark.value >= SPLIT else None)


def _numbers(axes: Axes, found: Histogram) -> None:
    """Bars of numbers from 1; what is 0 has no place on a logarithmic axis."""
    bins = list(_wider([each for each in found.bins if each[0] >= 1]))
    unusual = [
        each
        for each in found.bins
        if any(each[0] <= value.value < each[1] for value in found.unusual)
    ]
    axes.set_xscale("log")
    axes.set_yscale("log")
    for drawn, colour in ((bins, "model"), (unusual, "given")):
        # Centred on whole numbers, so that 1 is no edge.
        lefts, widths = [low - 0.5 for low, _, _ in drawn], [high - low for low, high, _ in drawn]
        heights = [100 * count / found.count / (high - low) for low, high, count in drawn]
        axes.bar(lefts, heights, width=widths, align="edge", color=COLOURS[colour])
    axes.set_ylim(
        bottom=min(
            (100 * count / found.count / (high - low) for low, high, count in bins), default=1.0
        )
        / 2
    )
    axes.set_xlim(left=0.5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    _shares(axes)
    length, what = (
        ("length", "clicks in a session")
        if found.of == "sessions"
        else ("degree", "edges at a node")
    )
    axes.set_xlabel(what)
    axes.set_ylabel(f"% at each {length}")


def _wider(bins: Sequence[DrawnBin]) -> Iterator[DrawnBin]:
    """Bins with those that lie within the edges of COARSE put together."""
    merged: dict[tuple[float, float], int] = {}
    for low, high, count in bins:
        place = bisect_right(COARSE, low)
        bounds = (COARSE[place - 1], COARSE[place]) if 0 < place < len(COARSE) else (low, high)
        merged[bounds] = merged.get(bounds, 0) + count
    return ((low, high, count) for (low, high), count in merged.items())


def _shares(axes: Axes) -> None:
    """Per cent on a logarithmic axis."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(LogLocator(numticks=5))
    axes.yaxis.set_minor_locator(NullLocator())


def _colours(found: Histogram, bins: Sequence[DrawnBin]) -> list[str]:
    values = [each.value for each in found.unusual]
    return [
        COLOURS["given" if any(low <= value < high for value in values) else "model"]
        for low, high, _ in bins
    ]


def _finish(
    axes: Axes,
    bins: Sequence[DrawnBin],
    heights: Sequence[float],
    found: Histogram,
    mark: Mark | None,
) -> None:
    """Names the values that stand out, and draws the setting."""
    axes.grid(visible=False, axis="x")
    offset: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8}
    for value in (each.value for each in found.unusual[:NAMED_VALUES]):
        place = next((i for i, (low, high, _) in enumerate(bins) if low <= value < high), None)
        if place is not None:
            axes.annotate(
                time_text(value),
                (bins[place][1], heights[place]),
                (2, 0),
                va="top",
                color=COLOURS["given"],
                **offset,
            )
    if mark:
        axes.axvline(mark.value, color=COLOURS["ink"], linewidth=0.8, linestyle="--")
        axes.annotate(
            mark.text,
            (mark.value, 1),
            (0, 2),
            xycoords=("data", "axes fraction"),
            va="bottom",
            **offset,
        )


def time_text(seconds: float) -> str:
    """A time in the largest unit in which it is short."""
    size, name = next(((size, name) for size, name in _UNITS if seconds >= 2 * size), (1, "s"))
    return f"{seconds / size:,.6g} {name}"


def _svg(drawing: Drawing, label: str) -> Markup:
    """The drawing as one <svg> element with a label for screen readers, without what would clash
    with other charts of the page."""
    buffer = io.StringIO()
    drawing.savefig(buffer, format="svg")
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    size, body = text[text.index("viewBox=") :].split('"', 2)[1], text[text.index(">") + 1 :]
    body = re.sub(r"(?s)<metadata>.*?</metadata>|<style.*?</style>", "", body)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    for name, colour in COLOURS.items():
        body = body.replace(colour, f"var(--{name})")
    return Markup('<svg role="img" aria-label="{}" viewBox="{}">').format(label, size) + Markup(
        body
    )  # matplotlib escapes its texts
