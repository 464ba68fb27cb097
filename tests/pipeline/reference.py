"""The pipeline again, in plain Python: slow, obvious, and written from the rules alone.

Two things it takes over from Spark's hash, which decides what is left to chance: the order of equal
times (`Tie`), and the number behind the value that an occurrence takes (`Draw`).
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from pipeline.config import ITEM_VIEW, Clean, PipelineConfig, Sessions, Split, View

SECOND = timedelta(seconds=1)
APP_NAMES = ("app_session_id", "app_open")


@dataclass(frozen=True)
class Event:
    """One event of the log. Fields have the names of the pipeline's columns; None: the log does not
    say, or has no such column."""

    user_id: str
    item_id: str
    timestamp: datetime
    event_type: str | None = None
    app_session_id: str | None = None
    app_open: datetime | None = None
    app_close: datetime | None = None
    stay_seconds: float | None = None
    value: float | None = None
    category: str | None = None


@dataclass
class Session:
    """Clicks of one session, in order."""

    clicks: list[Event] = field(default_factory=list)

    @property
    def user_id(self) -> str:
        return self.clicks[0].user_id

    @property
    def start(self) -> datetime:
        """Time of the first click."""
        return self.clicks[0].timestamp


@dataclass(frozen=True)
class Verdict:
    """An event with its stay in seconds (None: unknown) and the reason why it is no click (None: it
    is one)."""

    event: Event
    stay_seconds: float | None
    dropped: str | None


Tie = Callable[[Event], object]
Draw = Callable[[Session, int, str], int]
"""(session, position in it, view) -> a number."""
Columns = Collection[str]
"""The columns that the log has."""


def by_user(events: Iterable[Event], tie: Tie) -> dict[str, list[Event]]:
    """Each user's distinct events in order."""
    users: dict[str, list[Event]] = {}
    for event in dict.fromkeys(events):
        users.setdefault(event.user_id, []).append(event)
    return {
        user: sorted(found, key=lambda event: (event.timestamp, tie(event), event.item_id))
        for user, found in users.items()
    }


def derived_stay(events: list[Event], i: int) -> float | None:
    """Seconds to the next event on a different item, or to the app's close; None where that is
    unknown."""
    event = events[i]
    ends = [other.timestamp for other in events[i + 1 :] if other.item_id != event.item_id][:1]
    if event.app_close is not None and event.app_close >= event.timestamp:
        ends.append(event.app_close)
    found = (min(ends) - event.timestamp) / SECOND if ends else 0.0
    return found or None


def judge(events: list[Event], clean: Clean, event_types: Collection[str]) -> list[Verdict]:
    """What becomes of one user's distinct events."""
    stays: dict[str, list[float | None]] = {
        "given": [event.stay_seconds for event in events],
        "derived": [derived_stay(events, i) for i in range(len(events))],
        "absent": [None for _ in events],
    }
    judged = zip(events, stays[clean.stay], strict=True)
    of_day = Counter(
        event.timestamp.date()
        for event in events
        if not event_types or event.event_type in event_types
    )
    return [
        Verdict(
            event, stay, _dropped(event, stay, of_day[event.timestamp.date()], clean, event_types)
        )
        for event, stay in judged
    ]


def _dropped(
    event: Event, stay: float | None, of_day: int, clean: Clean, event_types: Collection[str]
) -> str | None:
    if event_types and event.event_type not in event_types:
        return "event type"
    if clean.maximum_clicks_per_day is not None and of_day > clean.maximum_clicks_per_day:
        return "too many clicks a day"
    if (
        clean.minimum_value is not None
        and event.value is not None
        and event.value < clean.minimum_value
    ):
        return "value below minimum"
    return "stay below minimum" if stay is not None and stay < clean.minimum_stay_seconds else None


def clicks(verdicts: list[Verdict]) -> list[Event]:
    """The events that are clicks."""
    return [verdict.event for verdict in verdicts if verdict.dropped is None]


def sessions(clicks: list[Event], settings: Sessions, columns: Columns) -> list[Session]:
    """One user's sessions: app sessions merged in chains, split again by idle gaps, halved where
    too long."""
    return [
        part
        for session in whole_sessions(clicks, settings, columns)
        for part in halved(session, settings.maximum_length)
    ]


def whole_sessions(clicks: list[Event], settings: Sessions, columns: Columns) -> list[Session]:
    """One user's sessions before any is halved."""
    chain = chains(clicks, timedelta(seconds=settings.merge_gap_seconds), columns)
    idle = timedelta(seconds=settings.idle_gap_seconds)
    found: list[Session] = []
    for before, click in zip([None, *clicks], clicks, strict=False):
        if (
            before is None
            or click.timestamp - before.timestamp >= idle
            or chain[click] != chain[before]
        ):
            found.append(Session())
        found[-1].clicks.append(click)
    return found


def chains(clicks: list[Event], merge_gap: timedelta, columns: Columns) -> dict[Event, int]:
    """Number of the chain of merged app sessions of each click. A log that names no app sessions
    has one chain."""
    if not set(APP_NAMES) & set(columns):
        return dict.fromkeys(clicks, 0)
    apps: dict[object, list[Event]] = {}
    for click in clicks:
        apps.setdefault(app_of(click), []).append(click)
    chain, number, latest = {}, 0, None
    for (opened, closed), found in sorted(
        ((span(found), found) for found in apps.values()), key=lambda pair: pair[0]
    ):
        if latest is not None and opened - latest >= merge_gap:
            number += 1
        latest = closed if latest is None else max(latest, closed)
        chain.update(dict.fromkeys(found, number))
    return chain


def app_of(click: Event) -> object:
    """Which app session a click belongs to: known by its id, else by its open; a click that has
    neither stands alone."""
    named = [(name, getattr(click, name)) for name in APP_NAMES if getattr(click, name) is not None]
    return named[0] if named else ("alone", click.timestamp)


def span(found: list[Event]) -> tuple[datetime, datetime]:
    """Open and close of the app session of these clicks: the earliest and the latest time that any
    of them says."""
    opened = min(
        [click.timestamp for click in found] + [click.app_open for click in found if click.app_open]
    )
    closed = max(
        [click.timestamp for click in found]
        + [click.app_close for click in found if click.app_close]
    )
    return opened, closed


def halved(session: Session, longest: int | None) -> list[Session]:
    """The session, or its halves, halved again until none has more clicks than `longest`."""
    n = len(session.clicks)
    if longest is None or n <= longest:
        return [session]
    middle = n - n // 2
    halves = Session(session.clicks[:middle]), Session(session.clicks[middle:])
    return [part for half in halves for part in halved(half, longest)]


def parts(found: list[Session], split: Split) -> list[list[str]]:
    """Train, test or unused: the part of each click of each of one user's sessions."""
    if split.kind == "last_items":
        total = sum(len(session.clicks) for session in found)
        last = split.items if total >= split.minimum_items else 0
        flat = iter(["train"] * (total - last) + ["test"] * last)
        return [[next(flat) for _ in session.clicks] for session in found]
    return [[_part(click, session, split) for click in session.clicks] for session in found]


def _part(click: Event, session: Session, split: Split) -> str:
    if split.cut is None:
        return "train"
    cut = split.cut.replace(tzinfo=None)
    if session.start < cut:
        return "train" if click.timestamp < cut else "unused"
    return (
        "test"
        if split.hours is None or session.start < cut + timedelta(hours=split.hours)
        else "unused"
    )


def without_repeats(nodes: Iterable[str]) -> list[str]:
    """Consecutive duplicates removed."""
    found: list[str] = []
    for node in nodes:
        if not found or found[-1] != node:
            found.append(node)
    return found


def vocabulary(
    nodes: Iterable[str], minimum: int, top: int | None, known: Mapping[str, int]
) -> dict[str, int]:
    """Raw id -> row of the nodes in use. What an older vocabulary knows keeps its row; the others
    follow, the most frequent first, equals by id."""
    kept = [(-count, node) for node, count in Counter(nodes).items() if count >= minimum]
    used = [node for _, node in sorted(kept)[:top]]
    new = [node for node in used if node not in known]
    rows = dict(known) | {node: row for row, node in enumerate(new, len(known))}
    return {node: rows[node] for node in used}


def edges(histories: Iterable[list[str]]) -> Counter[tuple[str, str]]:
    """Steps between consecutive nodes of users' histories."""
    return Counter(step for history in histories for step in pairwise(history))


def pairs(sequences: Iterable[list[str]], window: int) -> Counter[tuple[str, str]]:
    """Skip-gram pairs (centre, context)."""
    return Counter(
        (nodes[i], nodes[j])
        for nodes in sequences
        for i in range(len(nodes))
        for j in range(len(nodes))
        if 0 < abs(i - j) <= window
    )


Said = tuple[str, str, str]
"""One statement of an item table: (item, attribute, value)."""


def taken(values: Counter[str], several: str, number: int) -> str:
    """The value that an occurrence takes of an item's values: the heaviest, or the one that the
    number falls on by weight."""
    heaviest = sorted(values, key=lambda value: (-values[value], value))
    return (
        heaviest[0]
        if several == "first"
        else [value for value in heaviest for _ in range(values[value])][number % values.total()]
    )


class Expected:
    """What the pipeline is to make of a log: sessions, then what is learned from the training
    part."""

    def __init__(
        self,
        log: Iterable[Event],
        said: Iterable[Said],
        settings: PipelineConfig,
        columns: Columns,
        tie: Tie,
    ) -> None:
        self.settings, self.said = settings, list(said)
        judged = {
            user: judge(events, settings.clean, settings.source.event_types)
            for user, events in by_user(log, tie).items()
        }
        self.dropped = Counter(
            verdict.dropped
            for verdicts in judged.values()
            for verdict in verdicts
            if verdict.dropped
        )
        self.sessions: list[tuple[Session, list[str]]] = []
        for found in (
            sessions(clicks(verdicts), settings.sessions, columns) for verdicts in judged.values()
        ):
            self.sessions += zip(found, parts(found, settings.split), strict=True)
        self.on_events = set(settings.source.attributes)

    def learn(self, draw: Draw, known: Mapping[str, Mapping[str, int]]) -> None:
        """Values, nodes and vocabularies, once the numbers behind the drawn values are known.
        `known`: older vocabularies by view."""
        views = self.settings.views
        self.values = {
            name: self._values(view) for name, view in views.items() if name != ITEM_VIEW
        }
        self.nodes = {
            name: [self._nodes(name, view, session, part, draw) for session, part in self.sessions]
            for name, view in views.items()
        }
        self.occurrences = {
            name: [node for nodes in found for node in nodes if node is not None]
            for name, found in self.nodes.items()
        }
        self.rows = {
            name: vocabulary(
                self.occurrences[name], view.minimum_count, view.top, known.get(name, {})
            )
            for name, view in views.items()
        }

    def _values(self, view: View) -> dict[str, Counter[str]]:
        """item -> its values by weight: the latest known one that training clicks say (weight 1),
        and those of item tables."""
        found: dict[str, Counter[str]] = {}
        for item, attribute, value in self.said:
            if attribute == view.attribute and value not in view.null_values:
                found.setdefault(item, Counter())[value] += 1
        if view.attribute in self.on_events:
            for item, (_, value) in self._latest(view).items():
                found.setdefault(item, Counter())[value] += 1
        return found

    def _latest(self, view: View) -> dict[str, tuple[datetime, str]]:
        latest: dict[str, tuple[datetime, str]] = {}
        for click in self.part("train"):
            if click.category is not None and click.category not in view.null_values:
                said = (click.timestamp, click.category)
                latest[click.item_id] = max(latest.get(click.item_id, said), said)
        return latest

    def _nodes(
        self, name: str, view: View, session: Session, part: list[str], draw: Draw
    ) -> list[str | None]:
        """The node of each training click of a session; None where the item has no value."""
        train = [(i, click.item_id) for i, click in enumerate(session.clicks) if part[i] == "train"]
        if name == ITEM_VIEW:
            return [item for _, item in train]
        values = self.values[name]
        return [
            taken(values[item], view.several, draw(session, i, name)) if item in values else None
            for i, item in train
        ]

    def part(self, wanted: str) -> list[Event]:
        """The clicks of a part of the split, each user's in order."""
        return [
            click
            for session, part in self.sessions
            for click, found in zip(session.clicks, part, strict=True)
            if found == wanted
        ]

    def inside(self, view: str) -> list[tuple[str, list[str]]]:
        """(user, nodes that are in the vocabulary) of each session."""
        rows = self.rows[view]
        return [
            (session.user_id, [node for node in nodes if node is not None and node in rows])
            for (session, _), nodes in zip(self.sessions, self.nodes[view], strict=True)
        ]

    def sequences(self, view: str) -> list[list[str]]:
        """Training sequences of a view."""
        return [
            nodes
            for nodes in (without_repeats(nodes) for _, nodes in self.inside(view))
            if len(nodes) > 1
        ]

    def histories(self, view: str) -> list[list[str]]:
        """Each user's whole training history."""
        users: dict[str, list[str]] = {}
        for user, nodes in self.inside(view):
            users.setdefault(user, []).extend(nodes)
        return [without_repeats(nodes) for nodes in users.values()]

    def links(self, view: str) -> set[tuple[str, str, int]]:
        """(item, value, clicks on the item): all values in use of all items in use."""
        counts, items, values = (
            Counter(self.occurrences[ITEM_VIEW]),
            self.rows[ITEM_VIEW],
            self.values[view],
        )
        return {
            (item, value, counts[item])
            for item in items
            for value in values.get(item, ())
            if value in self.rows[view]
        }
