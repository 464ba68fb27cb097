"""Upkeep of a lake: forgetting users and old days, putting small files together, removing files of
old versions.

Only `events` and `rejects` are changed here; `preprocess.update` brings all other tables,
shards and held-out cases up to date with them.
"""

import json
import re
from datetime import timedelta
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.config import Source
from pipeline.errors import PipelineError
from pipeline.lake import Lake, Note, dates_in
from pipeline.log.columns import identifier, type_of
from pipeline.log.events import BATCH, RAW_ROW, REASON
from pipeline.log.readers import source_column
from pipeline.runs.ingest import EVENTS_BY, REJECTS_BY, STOPPED

_OWN = "m2grl_"
"""Of the names of the rejects' columns while those of the raw rows stand beside them."""
_USER = "m2grl_user"
_MALFORMED, _NOBODYS = "malformed row", "no user_id"
"""How the reasons begin of rows that could not be parsed, and of rows that name no user."""


def remove_user(lake: Lake, user: str, source: Source) -> int:
    """Removes a user's events and rejects, and all rejects of a stopped run; returns how many of
    the first two there were.

    A reject is the user's where its raw row says so in the column that `source` names. Of a row
    that could not be parsed, or has no such column, it is enough that the id stands in its text as
    a whole word, as it is or as JSON or CSV write it.

    What removes them names days only: Delta keeps the text of conditions in its log.
    """
    removed = _rewrite(lake, "events", lake.read("events"), F.col("user_id") == user, EVENTS_BY)
    is_of_user = F.coalesce(F.col(_USER) == user, F.col(RAW_ROW).rlike(_as_word(user)))
    # A row that names no user may hold the word as anything else.
    theirs = (F.col(REASON) != _NOBODYS) & is_of_user
    rejects = _with_user(lake.read("rejects"), source)
    removed += _rewrite(lake, "rejects", rejects, theirs, REJECTS_BY)
    if lake.exists(STOPPED):
        lake.write(STOPPED, lake.read(STOPPED).limit(0))
    return removed


def _as_word(user: str) -> str:
    """A regular expression for the id as a whole word, as it is or as JSON or CSV write it."""
    in_csv = user.replace('"', '""')
    in_json = (json.dumps(user, ensure_ascii=ascii_)[1:-1] for ascii_ in (True, False))
    spelled = "|".join(map(re.escape, {user, in_csv, *in_json}))
    return rf"(?<![\p{{L}}\p{{N}}])({spelled})(?![\p{{L}}\p{{N}}])"


def _with_user(rejects: DataFrame, source: Source) -> DataFrame:
    """Rejects with the user that the raw row names; null where nobody can say."""
    is_parsed = ~F.col(REASON).startswith(_MALFORMED)
    texts = rejects.where(is_parsed).select(RAW_ROW)
    schema = rejects.sparkSession.read.json(texts).schema
    parsed = rejects.withColumn(_USER, F.when(is_parsed, F.from_json(RAW_ROW, schema)))
    # Raw rows may have columns of the same names.
    own = {name: _OWN + name for name in rejects.columns}
    raw = parsed.withColumnsRenamed(own).select(*own.values(), f"{_USER}.*")
    try:
        column = source_column(raw, source.columns.user_id, "source.columns.user_id", source)
        user = identifier(column, type_of(raw, column), source)
    except PipelineError:
        user = F.lit(None).cast("string")
    again = [F.col(renamed).alias(name) for name, renamed in own.items()]
    return raw.select(*again, user.alias(_USER))


def drop_before(lake: Lake, days: int) -> int:
    """Removes the events that are older than so many days, that of the newest event included;
    returns how many events they were.

    With them go the rejects that days before brought, of a stopped run too, and those of which
    nobody knows the day: they may be as old.
    """
    events = lake.read("events")
    newest = events.agg(F.max("date").alias("date")).collect()[0]["date"]
    if newest is None:
        return 0
    last = newest - timedelta(days=days)
    is_old = F.col(BATCH).isNull() | (F.col(BATCH) <= last)
    for table in filter(lake.exists, ("rejects", STOPPED)):
        _rewrite(lake, table, lake.read(table), is_old, REJECTS_BY)
    return _rewrite(lake, "events", events, F.col("date") <= last, EVENTS_BY)


def _rewrite(lake: Lake, table: str, rows: DataFrame, gone: Column, by: tuple[str, ...]) -> int:
    """Writes the deliveries again that hold rows to be removed, without them; returns how many rows
    were removed."""
    counted = rows.where(gone).groupBy(BATCH).count().collect()
    removed = {row[BATCH]: row["count"] for row in counted}
    if removed:
        days = [day for day in removed if day is not None]
        holds = [F.col(BATCH).isin(*days)] if days else []
        conditions = [dates_in(days, BATCH)] if days else []
        if None in removed:
            holds.append(F.col(BATCH).isNull())
            conditions.append(f"{BATCH} IS NULL")
        # Null is what a condition gives of a row that it cannot judge: that row stays.
        stays = ~F.coalesce(gone, F.lit(False))
        left = rows.where(reduce(Column.__or__, holds) & stays).drop(_USER)
        note = Note(changed=tuple(sorted(map(str, days))))
        lake.write(table, left, by, " OR ".join(conditions), note)
    return sum(removed.values())


def compact(lake: Lake) -> None:
    """Puts the small files of each table together; its rows stay the same."""
    for table in lake.tables():
        lake.optimize(table)


def vacuum(lake: Lake, hours: float) -> None:
    """Removes the files that no version of the last `hours` reads."""
    for table in lake.tables():
        lake.vacuum(table, hours)
