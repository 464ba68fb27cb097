"""The examples in the pipeline's docstrings are true: each shows a rule on a few rows.

What an example may call beside its own module's names is in HELPERS.
"""

from datetime import datetime
from doctest import DocTest, DocTestFinder, DocTestRunner
from types import ModuleType
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from pipeline.clicks import clean, sessions, split
from pipeline.config import Sessions
from pipeline.contracts.statistics import TRAIN
from pipeline.graphs import edges, sequences, vocabulary
from pipeline.shards import streams
from tests.pipeline.frames import click_frame

MODULES: tuple[ModuleType, ...] = (clean, sessions, split, edges, sequences, vocabulary, streams)
RULES = (
    "clicks.clean.judge_events",
    "clicks.sessions.with_sessions",
    "clicks.sessions.merge_app_sessions",
    "clicks.sessions.halve",
    "clicks.split.with_part",
    "graphs.edges.directed_edges",
    "graphs.edges.item_links",
    "graphs.sequences.sessions",
    "graphs.vocabulary.rank",
    "graphs.vocabulary.append",
    "shards.streams.pairs",
)
"""Functions of rules that must carry an example."""
EXAMPLES = [
    example for module in MODULES for example in DocTestFinder().find(module) if example.examples
]


def rows(schema: str, *values: tuple[Any, ...]) -> DataFrame:
    """A frame of these rows."""
    return _spark().createDataFrame(list(values), schema)


def clicks_at(*texts: str) -> DataFrame:
    """Clicks of one user, each written as "10:00 item" or "10:00 item app-session"."""
    values = [("u", item, clock, *app) for clock, item, *app in map(str.split, texts)]
    has_apps = len(values[0]) > 3
    frame = click_frame(_spark(), values, "app_session_id string" if has_apps else "")
    return frame.withColumn("date", F.to_date("timestamp"))


def clicks_every_minute(count: int) -> DataFrame:
    """So many clicks of one user from 10:00 on."""
    return clicks_at(*(f"{10 + i // 60}:{i % 60} item{i}" for i in range(count)))


def in_sessions(*texts: str) -> DataFrame:
    """`clicks_at` with the columns of their sessions, which an hour without a click ends."""
    return sessions.with_sessions(clicks_at(*texts), Sessions(), seed=1)


def visits(*texts: str) -> DataFrame:
    """`in_sessions` of the training part on items that are written as their rows."""
    row_item = F.col("item_id").cast("int")
    return in_sessions(*texts).withColumns({"part": F.lit(TRAIN), "row_item": row_item})


def nodes(*ids: str) -> DataFrame:
    """A vocabulary of these ids in row order, the last of them clicked once, each before it once
    more."""
    counted = [(id_, row, len(ids) - row) for row, id_ in enumerate(ids)]
    return rows("id string, row int, count long", *counted)


def cached(frame: DataFrame) -> DataFrame:
    """Takes the place of a scratch table."""
    return frame.cache()


def shown(frame: DataFrame, *columns: str) -> None:
    """Prints columns of a frame as a table, its rows in their order; "-" is null."""
    names = columns or tuple(frame.columns)
    values = sorted(
        (tuple(row) for row in frame.select(*names).collect()),
        key=lambda row: [(value is None, value) for value in row],
    )
    table = [names, *(tuple(map(_text, row)) for row in values)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        print(" ".join(cells).rstrip())


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.time().isoformat("milliseconds" if value.microsecond else "seconds")
    return str(value)


def _spark() -> SparkSession:
    session = SparkSession.getActiveSession()
    assert session is not None
    return session


HELPERS = {
    helper.__name__: helper
    for helper in (rows, clicks_at, clicks_every_minute, in_sessions, visits, nodes, cached, shown)
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
@pytest.mark.usefixtures("spark")
def test_an_example_is_true(example: DocTest) -> None:
    example.globs |= HELPERS
    report: list[str] = []
    DocTestRunner().run(example, out=report.append)
    assert not report, "".join(report)


def test_rules_of_the_paper_have_examples() -> None:
    assert {f"pipeline.{rule}" for rule in RULES} <= {example.name for example in EXAMPLES}
