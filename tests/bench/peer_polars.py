"""The tables and shards of the pipeline by polars, as somebody writes them who knows it: one sort,
then shifts over sorted rows.

The log is sorted once, by user and time; `shift` is then the user's click before or after, which is
cheaper than `over` a user. Ids stay numbers until they are written. The number of threads is set by
POLARS_MAX_THREADS.
"""

import time
from pathlib import Path

import polars as pl

from tests.bench.rules import CATEGORY, ITEM, RELATION, Rules

UNKNOWN = -1
"""Stands for the time at which a user's last item was left."""
ROWS = {ITEM: "item_row", CATEGORY: "category_row"}
"""Columns with the row numbers of each view's nodes."""


def run(clicks: Path, articles: Path, output: Path, rules: Rules) -> dict[str, float]:
    """Writes every table of `rules.TABLES` and the shards under `output`; returns seconds by
    step."""
    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def timed(step: str) -> None:
        nonlocal began
        now = time.perf_counter()
        seconds[step], began = round(now - began, 2), now

    kept = _clean(clicks, output, rules)
    timed("clean")
    sessioned = _sessions(kept, output, rules)
    del kept
    timed("sessions")
    vocabularies, nodes = _vocabulary(sessioned, articles, output, rules)
    timed("vocabulary")
    steps = _edges(sessioned, nodes, vocabularies, output)
    del sessioned
    timed("edges")
    linked = _links(nodes, vocabularies, output)
    timed("links")
    _shards(steps, linked, output, rules)
    timed("shards")
    return seconds


def _write(frame: pl.LazyFrame, output: Path, table: str) -> None:
    (output / table).mkdir(parents=True, exist_ok=True)
    frame.sink_parquet(output / table / "part-0.parquet", compression="snappy")


def _clean(clicks: Path, output: Path, rules: Rules) -> pl.DataFrame:
    columns = {
        "user": "user_id",
        "item": "click_article_id",
        "time": "click_timestamp",
        "app": "session_id",
        "opened": "session_start",
    }
    # Half the width for ids that fit: what is sorted has to fit in memory.
    log = (
        pl.scan_parquet(clicks / "*.parquet")
        .select(**columns)
        .with_columns(pl.col("user", "item").cast(pl.Int32))
    )
    # The hash orders equal times, and puts equal rows side by side.
    tie = pl.struct(*columns).hash(rules.seed)
    events = (
        log.with_columns(tie=tie)
        .sort("user", "time", "tie")
        .drop("tie")
        .collect(engine="streaming")
        .lazy()
    )
    again = pl.all_horizontal(pl.col(*columns) == pl.col(*columns).shift(1)).fill_null(False)
    same_user = pl.col("user") == pl.col("user").shift(-1)
    ends_run = (~same_user | (pl.col("item") != pl.col("item").shift(-1))).fill_null(True)
    # Events on one item in a row are left when the next item is opened: what the next run's end
    # says.
    run_left = pl.when(ends_run).then(
        pl.when(same_user).then(pl.col("time").shift(-1)).otherwise(UNKNOWN)
    )
    stay = pl.col("left") - pl.col("time")
    kept = (
        events.filter(~again)
        .with_columns(left=run_left.backward_fill())
        .with_columns(stay=pl.when(stay > 0).then(stay))
        .filter(pl.col("stay").is_null() | (pl.col("stay") >= rules.minimum_stay))
        .drop("left")
        .collect()
    )
    timestamp = pl.from_epoch("time", time_unit="ms").cast(pl.Datetime("us"))
    table = kept.lazy().select(
        user_id=pl.col("user").cast(pl.String),
        item_id=pl.col("item").cast(pl.String),
        timestamp=timestamp,
        stay_seconds=pl.col("stay") / 1000,
        date=timestamp.dt.date(),
    )
    _write(table, output, "clean")
    return kept


def _sessions(kept: pl.DataFrame, output: Path, rules: Rules) -> pl.DataFrame:
    chains = _chains(kept, rules)
    before = pl.col("user") == pl.col("user").shift(1)
    goes_on = (
        before
        & (pl.col("time") - pl.col("time").shift(1) < rules.idle_gap)
        & (pl.col("chain") == pl.col("chain").shift(1))
    )
    sessioned = (
        kept.lazy()
        .select("user", "item", "time", "app")
        .join(chains, on=["user", "app"], how="left", maintain_order="left")
        .select("user", "item", "time", session=(~goes_on.fill_null(False)).cum_sum())
        .collect()
    )
    found = (
        sessioned.lazy()
        .group_by("session")
        .agg(
            pl.col("user").first(),
            pl.col("time").min().alias("start"),
            pl.col("time").max().alias("end"),
            pl.col("item"),
        )
    )
    start = pl.from_epoch("start", time_unit="ms").cast(pl.Datetime("us"))
    table = found.select(
        user_id=pl.col("user").cast(pl.String),
        # A stable function of user and start, as text.
        session_id=pl.struct("user", "start").hash().cast(pl.String),
        start=start,
        end=pl.from_epoch("end", time_unit="ms").cast(pl.Datetime("us")),
        date=start.dt.date(),
        item_ids=pl.col("item").cast(pl.List(pl.String)),
    )
    _write(table, output, "sessions")
    return sessioned


def _chains(kept: pl.DataFrame, rules: Rules) -> pl.LazyFrame:
    """user, app, chain: app sessions that merge have the same number."""
    apps = (
        kept.lazy()
        .group_by("user", "app")
        .agg(
            pl.min_horizontal(pl.col("opened").min(), pl.col("time").min()),
            closed=pl.col("time").max(),
        )
    )
    ordered = apps.sort("user", "opened", "app")
    before = pl.col("closed").cum_max().shift(1).over("user")
    return ordered.select(
        "user",
        "app",
        chain=(pl.col("opened") - before >= rules.merge_gap).fill_null(False).cum_sum(),
    )


def _vocabulary(
    sessioned: pl.DataFrame, articles: Path, output: Path, rules: Rules
) -> tuple[dict[str, pl.DataFrame], pl.DataFrame]:
    """The vocabularies, and item, item_row, category_row of each item clicked."""
    counted = (
        sessioned.lazy()
        .group_by("item")
        .agg(pl.len().cast(pl.Int64).alias("count"), first=pl.col("time").min())
        .collect()
    )
    said = pl.scan_csv(articles, infer_schema=False).filter(
        ~pl.col("category_id").is_in(rules.unknown_categories)
    )
    categories = (
        said.group_by(item=pl.col("article_id").cast(pl.Int32), category="category_id")
        .len()
        .sort("len")
        .group_by("item")
        .agg(pl.col("category").last())
    ).collect()
    named = counted.join(categories, on="item", how="left").with_columns(
        id=pl.col("item").cast(pl.String)
    )
    by_category = (
        named.drop_nulls("category")
        .group_by(id="category")
        .agg(pl.col("count").sum(), pl.col("first").min())
    )
    vocabularies = {
        ITEM: _ranked(named, rules.minimum_item_count),
        CATEGORY: _ranked(by_category, rules.minimum_category_count),
    }
    for view, vocabulary in vocabularies.items():
        _write(vocabulary.lazy(), output, f"vocabulary/{view}")
    nodes = named.select("item", "id", "category")
    for view, key in ((ITEM, "id"), (CATEGORY, "category")):
        rows = vocabularies[view].select(pl.col("id").alias(key), pl.col("row").alias(ROWS[view]))
        nodes = nodes.join(rows, on=key, how="left")
    return vocabularies, nodes.select("item", *ROWS.values())


def _ranked(counted: pl.DataFrame, minimum: int) -> pl.DataFrame:
    ordered = counted.filter(pl.col("count") >= minimum).sort(
        ["count", "id"], descending=[True, False]
    )
    date = pl.from_epoch("first", time_unit="ms").dt.date()
    return ordered.with_row_index("row").select(
        "id", pl.col("row").cast(pl.Int32), "count", first_date=date
    )


def _edges(
    sessioned: pl.DataFrame,
    nodes: pl.DataFrame,
    vocabularies: dict[str, pl.DataFrame],
    output: Path,
) -> dict[str, pl.DataFrame]:
    """session, row of each view's sequences: without nodes outside the vocabulary, then without
    consecutive duplicates."""
    occurrences = (
        sessioned.lazy()
        .join(nodes.lazy(), on="item", how="left", maintain_order="left")
        .select("user", "session", *ROWS.values())
        .collect()
    )
    return {view: _view_edges(occurrences, view, vocabularies[view], output) for view in ROWS}


def _view_edges(
    occurrences: pl.DataFrame, view: str, vocabulary: pl.DataFrame, output: Path
) -> pl.DataFrame:
    steps = (
        occurrences.lazy()
        .select("user", "session", row=ROWS[view])
        .drop_nulls("row")
        .with_columns(
            before=pl.when(pl.col("user") == pl.col("user").shift(1)).then(pl.col("row").shift(1)),
            same_session=pl.col("session") == pl.col("session").shift(1),
        )
        .collect()
    )
    counted = (
        steps.lazy()
        .filter(pl.col("before") != pl.col("row"))
        .group_by("before", "row")
        .agg(weight=pl.len().cast(pl.Int64))
    )
    named = vocabulary.lazy().select("row", "id")
    edges = counted.join(named.rename({"row": "before", "id": "source"}), on="before").join(
        named.rename({"id": "target"}), on="row"
    )
    _write(edges.select("source", "target", "weight"), output, f"edges/{view}")
    return steps.filter(
        ~(pl.col("same_session") & (pl.col("before") == pl.col("row"))).fill_null(False)
    ).select("session", "row")


def _links(
    nodes: pl.DataFrame, vocabularies: dict[str, pl.DataFrame], output: Path
) -> pl.DataFrame:
    """centre, contexts: the rows of each item in use and of its category."""
    items, categories = vocabularies[ITEM], vocabularies[CATEGORY]
    linked = nodes.drop_nulls(list(ROWS.values()))
    of_items, of_categories = (
        items.select("id", "count", item_row="row"),
        categories.select(value_id="id", category_row="row"),
    )
    named = linked.join(of_items, on="item_row").join(of_categories, on="category_row")
    _write(
        named.lazy().select(
            pl.col("id").alias("item_id"), "value_id", pl.col("count").alias("weight")
        ),
        output,
        f"links/{RELATION}",
    )
    return linked.select(centre="item_row", contexts=pl.concat_list("category_row"))


def _shards(
    steps: dict[str, pl.DataFrame], linked: pl.DataFrame, output: Path, rules: Rules
) -> None:
    for view in ROWS:
        sequences = (
            steps.pop(view)
            .lazy()
            .group_by("session")
            .agg(nodes=pl.col("row"))
            .filter(pl.col("nodes").list.len() > 1)
        )
        _stream(sequences, "session", ["nodes"], output / "shards" / view / "windows", rules)
    _stream(
        linked.lazy(),
        "centre",
        ["centre", "contexts"],
        output / "shards" / RELATION / "pairs",
        rules,
    )


def _stream(rows: pl.LazyFrame, key: str, columns: list[str], folder: Path, rules: Rules) -> None:
    """Rows into files of pseudo-random order: hash of the key mod files, sorted by hash within."""
    folder.mkdir(parents=True, exist_ok=True)
    shuffled = rows.with_columns(hash=pl.col(key).hash(rules.seed)).sort("hash").collect()
    for file in range(rules.files):
        part = shuffled.filter(pl.col("hash") % rules.files == file).select(columns)
        part.write_parquet(
            folder / f"part-{file}.parquet", compression="zstd", row_group_size=rules.row_group_rows
        )
