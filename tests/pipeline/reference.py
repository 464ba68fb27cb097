"""The pipeline again, in plain Python: slow, obvious, and written from the rules alone.

Ties in time are the one thing it takes over: the order in which Spark's hash puts equal times (`tie`).
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

HOUR, HALF_HOUR, TWO_SECONDS = timedelta(hours=1), timedelta(minutes=30), timedelta(seconds=2)


@dataclass(frozen=True)
class Event:
    """One event of the log."""

    user: str
    item: str
    time: datetime
    type: str
    opened: datetime | None
    closed: datetime | None
    category: str | None


@dataclass
class Session:
    """Clicks of one session, in order."""

    user: str
    clicks: list[Event] = field(default_factory=list)

    @property
    def start(self) -> datetime:
        """Time of the first click."""
        return self.clicks[0].time


Tie = Callable[[Event], object]


def by_user(events: Iterable[Event], tie: Tie) -> dict[str, list[Event]]:
    """Each user's distinct events in order."""
    users: dict[str, list[Event]] = {}
    for event in dict.fromkeys(events):
        users.setdefault(event.user, []).append(event)
    return {user: sorted(found, key=lambda event: (event.time, tie(event))) for user, found in users.items()}


def stay(events: list[Event], i: int) -> timedelta | None:
    """Time to the next event on a different item, or to the app's close; none where it is unknown."""
    ends = [event.time for event in events[i + 1 :] if event.item != events[i].item][:1]
    closed = events[i].closed
    if closed is not None and closed >= events[i].time:
        ends.append(closed)
    found = min(ends) - events[i].time if ends else timedelta(0)
    return found or None


def clicks(events: list[Event], types: set[str]) -> list[Event]:
    """One user's events that are clicks."""
    stays = [stay(events, i) for i in range(len(events))]
    return [
        event for event, seconds in zip(events, stays, strict=True) if event.type in types and (seconds is None or seconds >= TWO_SECONDS)
    ]


def sessions(clicks: list[Event], longest: int | None) -> list[Session]:
    """One user's sessions: app sessions merged in chains, split again by idle hours, halved where too long."""
    chain = _chains(clicks)
    found: list[Session] = []
    for before, click in zip([None, *clicks], clicks, strict=False):
        if before is None or click.time - before.time >= HOUR or chain[click] != chain[before]:
            found.append(Session(click.user))
        found[-1].clicks.append(click)
    return [part for session in found for part in _halved(session, longest)]


def _chains(clicks: list[Event]) -> dict[Event, int]:
    """Number of the chain of merged app sessions of each click."""
    apps: dict[object, list[Event]] = {}
    for click in clicks:
        apps.setdefault(click.opened or ("alone", click.time), []).append(click)
    spans = []
    for found in apps.values():
        opened = min([click.time for click in found] + [click.opened for click in found if click.opened])
        closed = max([click.time for click in found] + [click.closed for click in found if click.closed])
        spans.append((opened, closed, found))
    chain, number, latest = {}, 0, None
    for opened, closed, found in sorted(spans, key=lambda span: span[0]):
        if latest is not None and opened - latest >= HALF_HOUR:
            number += 1
        latest = closed if latest is None else max(latest, closed)
        chain.update(dict.fromkeys(found, number))
    return chain


def _halved(session: Session, longest: int | None) -> list[Session]:
    n = len(session.clicks)
    if longest is None or n <= longest:
        return [session]
    middle = n - n // 2
    halves = Session(session.user, session.clicks[:middle]), Session(session.user, session.clicks[middle:])
    return [part for half in halves for part in _halved(half, longest)]


def without_repeats(nodes: Iterable[str]) -> list[str]:
    """Consecutive duplicates removed."""
    found: list[str] = []
    for node in nodes:
        if not found or found[-1] != node:
            found.append(node)
    return found


def vocabulary(nodes: Iterable[str], minimum: int, top: int | None) -> dict[str, int]:
    """Raw id -> row, the most frequent first, equals by id."""
    kept = [(-count, node) for node, count in Counter(nodes).items() if count >= minimum]
    return {node: row for row, (_, node) in enumerate(sorted(kept)[:top])}


def edges(histories: Iterable[list[str]]) -> Counter[tuple[str, str]]:
    """Steps between consecutive nodes of users' histories."""
    return Counter(step for history in histories for step in pairwise(history))


def pairs(sequences: Iterable[list[str]], window: int) -> Counter[tuple[str, str]]:
    """Skip-gram pairs (centre, context)."""
    return Counter(
        (nodes[i], nodes[j]) for nodes in sequences for i in range(len(nodes)) for j in range(len(nodes)) if 0 < abs(i - j) <= window
    )
