"""Twenty million clicks of a hostile log, with the driver memory of one machine: a crawler with two
million of them, an item in a third.

Run by `make test-scale`; it takes about twenty minutes on two idle cores, so the other tests go
without it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812

from tests.scale.preprocess import preprocess

pytestmark = pytest.mark.timeout(1800)
CLICKS, CRAWLED, USERS, ITEMS, FILES, SEED = 20_000_000, 2_000_000, 2_000_000, 500_000, 20, 1
BEGIN, DAY = 1_767_225_600_000, 86_400_000
"""The first of January 2026, and a day's length, in milliseconds."""
PROJECT = """
name = "hostile"
[source]
path = "{folder}/log/*.parquet"
format = "parquet"
time.unit = "milliseconds"
[source.columns]
user_id = "user"
item_id = "item"
timestamp = "time"
[source.attributes]
category = "category"
[clean]
stay = "absent"
{limit}
[views.item]
minimum_count = 5
[views.category]
attribute = "category"
[relations.item_category]
view = "category"
[split]
kind = "none"
"""


def write_log(folder: Path) -> None:
    """The crawler clicks every half second for eleven days, on one item after the other; people on
    the hot item every third time."""
    random = np.random.default_rng(SEED)
    folder.mkdir()
    for number in range(FILES):
        people, crawled = (CLICKS - CRAWLED) // FILES, CRAWLED // FILES
        items = np.minimum(random.zipf(1.3, people), ITEMS - 1)
        items[random.random(people) < 1 / 3] = 0
        steps = number * crawled + np.arange(crawled)
        item = np.concatenate([items, 1 + steps % (ITEMS - 1)])
        columns = {
            "user": np.concatenate(
                [random.integers(USERS, size=people).astype(str), np.full(crawled, "crawler")]
            ),
            "item": item,
            "time": np.concatenate(
                [BEGIN + random.integers(30 * DAY, size=people), BEGIN + 500 * steps]
            ),
            "category": item % 1000,
        }
        pq.write_table(pa.table(columns), folder / f"{number:02}.parquet")


def run(folder: Path, name: str, limit: str) -> dict[str, Any]:
    """statistics.json of a run."""
    config = folder / f"{name}.toml"
    config.write_text(PROJECT.format(folder=folder, limit=limit), encoding="utf-8")
    return preprocess([config], folder / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    write_log(folder / "log")
    return folder


def test_a_crawler_and_a_hot_item_are_taken_as_they_are(folder: Path, spark: SparkSession) -> None:
    figures = run(folder, "all", "")
    duplicates = figures["funnel"]["dropped"]["duplicate"]
    assert figures["funnel"]["clicks"] == CLICKS - duplicates
    assert duplicates < 100
    sessions = spark.read.format("delta").load(str(folder / "all/hostile/lake/sessions"))
    assert sessions.where(F.col("user_id") == "crawler").select(F.size("item_ids")).collect() == [
        (CRAWLED,)
    ]
    assert sessions.select(F.sum(F.size("item_ids"))).collect() == [(CLICKS - duplicates,)]
    hot = (
        spark.read.format("delta")
        .load(str(folder / "all/hostile/lake/vocabulary/item"))
        .where(F.col("row") == 0)
        .collect()[0]
    )
    assert hot["id"] == "0"
    assert hot["count"] == pytest.approx((CLICKS - CRAWLED) / 3, rel=0.01)
    assert figures["edges"]["category"]["weight"] > 10**7


def test_a_limit_leaves_the_crawler_out_and_counts_it(folder: Path) -> None:
    funnel = run(folder, "limited", "maximum_clicks_per_day = 10_000")["funnel"]
    assert funnel["dropped"]["too many clicks a day"] == CRAWLED
    assert funnel["clicks"] == CLICKS - CRAWLED - funnel["dropped"]["duplicate"]
