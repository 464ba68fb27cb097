"""Writing what is held out for evaluation (the contract is pipeline/contracts/heldout.py)."""

from functools import partial

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812  (the name everybody knows)

from pipeline.clicks.sessions import SESSION, session_id
from pipeline.clicks.split import CLICK
from pipeline.contracts import heldout
from pipeline.contracts.sealed import MANIFEST
from pipeline.contracts.statistics import TEST, TRAIN
from pipeline.shards.writer import write_one
from pipeline.spark import side_by_side
from pipeline.storage.files import move, remove_folder
from pipeline.storage.locations import Location


def write_cases(folder: Location, clicks: DataFrame) -> None:
    """Writes a folder of held-out cases from clicks with `part`. Raises nothing where no click is
    held out: the files are empty."""
    (folder / MANIFEST).unlink(missing_ok=True)
    train, test = clicks.where(F.col("part") == TRAIN), clicks.where(F.col("part") == TEST)
    counts = train.groupBy("item_id").agg(F.count("*").alias("clicks"))
    frames = {
        heldout.SESSIONS: test_sessions(test),
        heldout.HISTORY: histories(train, test),
        heldout.COUNTS: counts.orderBy("item_id"),
    }
    work = {name: partial(_write, folder, name, frame) for name, frame in frames.items()}
    side_by_side(clicks.sparkSession, work)
    heldout.write_manifest(folder)


def test_sessions(test: DataFrame) -> DataFrame:
    """user_id, session_id, item_ids of the held-out clicks, a user's sessions in order."""
    grouped = test.groupBy(*SESSION).agg(_in_order().alias("item_ids"))
    id_ = session_id().alias("session_id")
    return grouped.orderBy(*SESSION).select("user_id", id_, "item_ids")


def histories(train: DataFrame, test: DataFrame) -> DataFrame:
    """user_id, item_ids of the training clicks of each user with held-out clicks."""
    users = test.select("user_id").distinct()
    before = train.groupBy("user_id").agg(_in_order().alias("item_ids"))
    nothing = F.array().cast("array<string>")
    # A user who is new in the test part has an empty history, not none.
    item_ids = F.coalesce("item_ids", nothing).alias("item_ids")
    joined = users.join(before, "user_id", "left")
    return joined.select("user_id", item_ids).orderBy("user_id")


def _in_order() -> Column:
    clicks = F.collect_list(F.struct(*CLICK, "item_id"))
    return F.transform(F.sort_array(clicks), lambda click: click["item_id"])


def _write(folder: Location, name: str, frame: DataFrame) -> None:
    """One Parquet file with the name of the contract, written by one task: what is held out is a
    small part of a log."""
    part = folder / f"{name}.part"
    move(write_one(frame.coalesce(1), part), folder / name)
    remove_folder(part)
