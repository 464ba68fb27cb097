"""Upkeep of a lake: forgetting users and old days, putting small files together, removing files of old versions.

Only `events` and `rejects` are changed here; `Pipeline.update` brings all other tables, shards and held-out cases up to date with them.
"""

import json
import re
from datetime import timedelta
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.intake import EVENTS_BY, REJECTS_BY, STOPPED
from pipeline.lake import Lake, Note, dates_in
from pipeline.source import BATCH, ROW


def remove_user(lake: Lake, user: str) -> int:
    """Removes a user's events, and the rejects in whose text the id stands by itself; returns how many rows they were.

    What removes them names days only: Delta keeps the text of conditions in its log.
    """
    events, rejects = lake.read("events"), lake.read("rejects")
    gone = F.col("user_id") == user
    removed = _rewrite(lake, "events", events, gone, EVENTS_BY)
    # As it is, in a malformed row, and as JSON writes it, in the others.
    forms = "|".join(map(re.escape, {user, json.dumps(user, ensure_ascii=False)[1:-1]}))
    named = F.col(ROW).rlike(rf"(?<![\p{{L}}\p{{N}}])({forms})(?![\p{{L}}\p{{N}}])")
    removed += _rewrite(lake, "rejects", rejects, named, REJECTS_BY)
    if lake.exists(STOPPED):
        lake.write(STOPPED, lake.read(STOPPED).limit(0))
    return removed


def drop_before(lake: Lake, days: int) -> int:
    """Removes the events that are older than so many days, that of the newest event included, and the rejects that days before brought;
    returns how many events they were."""
    events = lake.read("events")
    newest = events.agg(F.max("date").alias("date")).collect()[0]["date"]
    if newest is None:
        return 0
    last = newest - timedelta(days=days)
    _rewrite(lake, "rejects", lake.read("rejects"), F.col(BATCH) <= last, REJECTS_BY)
    return _rewrite(lake, "events", events, F.col("date") <= last, EVENTS_BY)


def _rewrite(lake: Lake, table: str, rows: DataFrame, gone: Column, by: tuple[str, ...]) -> int:
    """Writes the batches again that hold rows to be removed, without them."""
    found = {row[BATCH]: row["count"] for row in rows.where(gone).groupBy(BATCH).count().collect()}
    if found:
        days = [day for day in found if day is not None]
        holds = [F.col(BATCH).isin(*days)] if days else []
        conditions = [dates_in(days, BATCH)] if days else []
        if None in found:
            holds, conditions = [*holds, F.col(BATCH).isNull()], [*conditions, f"{BATCH} IS NULL"]
        left = rows.where(reduce(Column.__or__, holds) & ~F.coalesce(gone, F.lit(False)))
        changed = tuple(sorted(map(str, days)))
        lake.write(table, left, by, " OR ".join(conditions), Note(changed=changed))
    return sum(found.values())


def compact(lake: Lake) -> None:
    """Puts the small files of each table together; its rows stay the same."""
    for table in lake.tables():
        lake.optimize(table)


def vacuum(lake: Lake, hours: float) -> None:
    """Removes the files that no version of the last `hours` reads."""
    for table in lake.tables():
        lake.vacuum(table, hours)
