"""Upkeep of a lake as a user calls it."""

import os
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.common.config import load
from jobs.maintain import Options, keep, main, manifest_of
from pipeline.config import PipelineConfig
from pipeline.contracts.layout import Output
from pipeline.contracts.shards import MANIFEST, read_manifest, read_manifest_file
from pipeline.contracts.verify import verify
from pipeline.errors import PipelineError
from pipeline.lake import GoneError
from pipeline.runs.pipeline import Identity, Pipeline
from pipeline.runs.preprocess import preprocess
from pipeline.runs.rebuild import checksums, rebuild
from pipeline.storage.files import remove_folder
from pipeline.storage.locations import names
from tests.jobs.test_preprocess import project

CLICKS = [
    ("ann", 1),
    ("ann", 2),
    ("ann", 3),
    ("bob", 1),
    ("bob", 4),
    ("bob", 2),
    ("eve", 3),
    ("eve", 1),
]


def holding(folder: Path, text: str) -> list[Path]:
    """The Parquet files under a folder in which a text stands."""
    return [
        path
        for path in sorted(folder.rglob("*.parquet"))
        if text in str(pq.ParquetFile(path).read().to_pylist())
    ]


def rows_of_clicks() -> str:
    """CLICKS as lines of the log."""
    return "".join(
        f"{user},item{item},2024-03-01 10:00:{second:02}\n"
        for second, (user, item) in enumerate(CLICKS)
    )


def test_a_user_is_removed_from_every_file(spark: SparkSession, tmp_path: Path) -> None:
    config = project(tmp_path, rows_of_clicks() + "bob,,2024-03-01 11:00:00\n")
    config.write_text(
        config.read_text(encoding="utf-8").replace(
            "[source.columns]", "max_rejected_share = 0.5\n[source.columns]"
        )
    )
    settings = load([config])
    paths = settings.paths
    preprocess(Pipeline(spark, settings, paths.output, Identity({}, "hash", "version")))
    assert {path.parts[len(paths.lake.parts)] for path in holding(paths.lake, "bob")} >= {
        "events",
        "rejects",
        "clean",
        "sessions",
    }
    assert holding(paths.lake, "item4")
    command = ["spark-submit", "jobs/maintain.py", str(config), "--remove-user", "bob", "--compact"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=250, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 rows of user 'bob' removed" in done.stdout
    assert not holding(paths.root, "bob")
    assert len(holding(paths.root, "ann")) > 0
    # The item that nobody else clicked keeps its row, unused.
    vocabulary = (
        spark.read.format("delta")
        .load(str(paths.lake / "vocabulary/item"))
        .where("id = 'item4'")
        .collect()
    )
    assert [row["count"] for row in vocabulary] == [0]
    assert sum(1 for _ in verify(paths.shards, read_manifest(paths.shards))) > 0


def test_a_command_line_that_asks_for_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(project(tmp_path, ""))])
    assert ended.value.code == 2
    assert "say what to do: --remove-user" in capsys.readouterr().err


def test_shards_are_rebuilt_as_long_as_their_rows_are_there(
    spark: SparkSession, tmp_path: Path
) -> None:
    """Files of the versions that the manifest names may have been put together and vacuumed
    since."""
    settings = load([project(tmp_path, rows_of_clicks())])
    output, again = settings.paths.output, Output.under(tmp_path / "again", settings.paths.lake)
    config = settings.model_dump(mode="json", include=set(PipelineConfig.model_fields))
    pipeline = Pipeline(spark, settings, output, Identity(config, "hash", "version"))
    preprocess(pipeline)
    keep(pipeline, Options(remove_user="bob", compact=True))
    older = read_manifest(output.shards)
    # Of the run before too, whose shards are gone.
    before, kept = (read_manifest_file(output.manifests / name) for name in names(output.manifests))
    assert (before.inputs["clean"] < kept.inputs["clean"], kept) == (True, older)
    assert older.inputs["clean"] < pipeline.lake.version("clean")
    with pytest.raises(
        PipelineError, match="the manifest is of project 'fair', the configuration of 'shop'"
    ):
        rebuild(pipeline, older.model_copy(update={"name": "fair"}), again)
    other = {"item": older.views["item"].model_copy(update={"streams": ()})}
    with pytest.raises(
        PipelineError,
        match=(
            f"{again.shards} is not to the byte what the manifest lists: item/pairs, "
            "item/windows differ"
        ),
    ):
        rebuild(pipeline, older.model_copy(update={"views": other}), again)
    assert not (again.shards / MANIFEST).exists()
    remove_folder(output.shards)
    newest = str(output.manifests / names(output.manifests)[-1])
    rebuild(pipeline, manifest_of(newest), again)
    manifest = read_manifest(again.shards)
    assert checksums(manifest) == checksums(older)
    assert manifest.inputs["clean"] > older.inputs["clean"]
    pipeline.lake.write("clean", pipeline.lake.read("clean").limit(1))
    pipeline.lake.vacuum("clean", 0)
    with pytest.raises(
        GoneError, match=r"files of an older version were vacuumed: .*clean.* does not exist"
    ):
        rebuild(pipeline, older, again)
