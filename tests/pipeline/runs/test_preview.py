"""`preprocess.py --check`: what a sample shows, and that nothing is written."""

import time
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import preprocess
from jobs.common.config import load
from jobs.preprocessing import preview as checking
from pipeline.runs.preview import Attribute, EventType, read_sample

CONFIG = """
name = "shop"
output = "{folder}/build"
[source]
path = "{folder}/log.csv"
format = "csv"
event_types = ["view"]
attributes.brand = "brand"
[source.columns]
user_id = "user"
item_id = "item"
timestamp = "time"
stay_seconds = "stay"
event_type = "kind"
[[source.items]]
path = "{folder}/items.csv"
format = "csv"
item_id = "item"
title = "title"
attributes.category = "category"
[clean]
stay = "given"
[views.item]
[views.category]
attribute = "category"
null_values = ["", "-1"]
"""
ROWS = [
    "u1,i1,2024-03-01 10:00:00,5,view,nike",
    "u1,[b]i2[/b],2024-03-01 10:01:00,,view,nike",
    "u2,i3,2024-03-02 09:00:00,-4,cart,",
    "u2,i1,2024-02-29 23:00:00,7.5,,puma",
    ",i1,2024-03-01 10:00:00,1,view,nike",
    "u3,i1,31 February,1,view,nike",
    "u3,i1,32 February,1,view,nike",
    "u4,beyond the sample,2024-03-05 10:00:00,5,view,nike",
]


def write(folder: Path, rows: list[str]) -> Path:
    (folder / "log.csv").write_text("\n".join(["user,item,time,stay,kind,brand", *rows]) + "\n")
    (folder / "items.csv").write_text(
        "item,title,category\ni1,One,shoes\n[b]i2[/b],Two,-1\ni9,Nine,hats\ni1,One\n,None,hats\n"
    )
    config = folder / "shop.toml"
    config.write_text(CONFIG.format(folder=folder))
    return config


def files(*folders: Path) -> set[Path]:
    return {path for folder in folders for path in folder.iterdir()} | set(folders[0].rglob("*"))


@pytest.fixture
def one_session(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job runs in the session of the tests, and leaves it open."""
    monkeypatch.setattr(preprocess, "open_session", lambda _: spark)
    monkeypatch.setattr(spark, "stop", lambda: None)
    monkeypatch.setenv("COLUMNS", "80")


def test_a_sample_tells_what_the_log_is_like(
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = load([write(tmp_path, ROWS)])
    before = files(tmp_path, Path.cwd())
    found = read_sample(spark, settings, rows=7)
    assert files(tmp_path, Path.cwd()) == before  # nothing is written
    assert (found.rows, len(found.events), found.rejected_rows) == (7, 4, 3)
    assert [(group.name, group.rows) for group in found.rejected] == [
        ("unreadable timestamp", 2),
        ("no user_id", 1),
    ]
    assert '"time":"31 February"' in found.rejected[0].example
    assert found.rejected[0].file.endswith("log.csv")
    assert [(group.name, group.rows) for group in found.flaws] == [("stay_seconds out of range", 1)]
    assert found.event_types == (
        EventType("view", 2, "click"),
        EventType("cart", 1, "no click"),
        EventType(None, 1, "no click"),
    )
    fields = {field.name: field for field in found.fields}
    assert fields["timestamp"].bounds == (datetime(2024, 2, 29, 23), datetime(2024, 3, 2, 9))
    assert (fields["stay_seconds"].unknown, fields["stay_seconds"].distinct) == (2, 2)
    assert (fields["user_id"].distinct, fields["user_id"].common, fields["user_id"].bounds) == (
        2,
        ("u1", 2),
        None,
    )
    assert found.attributes == (
        Attribute(
            "brand", "events", asked=4, known=3, distinct=2, common=(("nike", 2), ("puma", 1))
        ),
        Attribute("category", "items", asked=3, known=1, distinct=1, common=(("shoes", 1),)),
    )
    assert (found.items, found.known_items) == (3, 2)
    assert "batch" not in found.columns
    (items,) = found.item_tables
    assert (items.option, items.rows) == ("source.items[0]", 5)
    assert [(group.name, group.rows, group.example) for group in items.rejected] == [
        ("malformed row", 1, "i1,One"),
        ("no item_id", 1, '[{"attribute":"category","value":"hats"},{"value":"None"}]'),
    ]

    monkeypatch.setenv("COLUMNS", "80")
    checking.print_check(found, settings)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    shown = " ".join(" ".join(lines).split())
    for told in (
        "shop: the first 7 rows of",
        "42.9% of the sample is rejected, more than source.max_rejected_share = 1.00%",
        "[b]i2[/b]",
        "the item tables know 2 of the 3 items in the sample",
        "source.items[0]: of all its 5 rows, those that say nothing of any item",
        "i1,One",
    ):
        assert told in shown


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine stands in New York."""
    with monkeypatch.context() as moved:
        moved.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("elsewhere")
def test_a_sample_shows_times_in_utc_and_the_day_that_brought_a_row(
    spark: SparkSession, tmp_path: Path
) -> None:
    settings = load([write(tmp_path, ROWS)])
    (tmp_path / "log.csv").rename(tmp_path / "log-2024-03-02.csv")
    settings = settings.model_copy(
        update={
            "source": settings.source.model_copy(update={"path": f"{tmp_path}/log-{{date}}.csv"})
        }
    )
    for day in (None, date(2024, 3, 2)):
        fields = {field.name: field for field in read_sample(spark, settings, 7, day).fields}
        assert fields["batch"].bounds == (date(2024, 3, 2), date(2024, 3, 2))
        assert fields["timestamp"].bounds == (datetime(2024, 2, 29, 23), datetime(2024, 3, 2, 9))


@pytest.mark.usefixtures("one_session")
def test_an_empty_day_needs_a_day(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--empty-day says something of a day; name it by --date"):
        preprocess.main([str(write(tmp_path, ROWS)), "--empty-day"])


@pytest.mark.usefixtures("one_session")
def test_a_sample_without_any_event_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, ROWS[4:7])
    before = files(tmp_path, Path.cwd())
    with pytest.raises(SystemExit) as ended:
        preprocess.main([str(config), "--check", "--check-rows", "2"])
    reasons = "no user_id: 1, unreadable timestamp: 1"
    assert ended.value.code == (
        f"preprocess.py: no row of the sample of source.path '{tmp_path}/log.csv' is an event "
        f"({reasons}); correct [source]"
    )
    assert "no user_id" in capsys.readouterr().out  # the tables come first
    assert files(tmp_path, Path.cwd()) == before
