"""Paths of this machine and URIs of stores behave alike; the store here is a folder behind
pyarrow's interface."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs
from pydantic import ValidationError

from jobs.common.config import Project
from pipeline.contracts.sealed import ManifestError, check_file
from pipeline.contracts.shards import Manifest
from pipeline.shards.counting import Contents, of_file, of_stream_file
from pipeline.storage import files, locations
from pipeline.storage.files import move, remove_folder, sha256, write_text
from pipeline.storage.locations import (
    Location,
    LocationError,
    Remote,
    location,
    names,
    parquet,
    read_table,
    size,
    spark_path,
)


@pytest.fixture(params=["path", "s3a", "hdfs"])
def folder(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Location:
    """An empty folder of each kind of place, with characters that URIs would give a meaning."""
    if request.param == "path":
        return location(f"{tmp_path}/a b%20[1]#?;")
    system = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr(locations, "_file_system", lambda scheme, authority: (system, authority))  # noqa: ARG005
    # A store needs no folders, the disk that plays one does.
    (tmp_path / "bucket" / "a b%20[1]#?;" / "deep").mkdir(parents=True)
    return location(f"{request.param}://bucket/a b%20[1]#?;/")


def write_table(where: Location, **columns: object) -> None:
    system, path = (fs.LocalFileSystem(), str(where)) if isinstance(where, Path) else where.store
    system.create_dir(path.rsplit("/", 1)[0])
    pq.write_table(pa.table(columns), path, filesystem=system, row_group_size=2)


def test_a_text_is_whole_and_replaces_an_older_one(folder: Location) -> None:
    file = folder / "deep" / "one.json"
    write_text(folder / "kept", "")
    for text in ("é" * 10_000, "second"):
        write_text(file, text)
        assert file.read_text(encoding="utf-8") == text
    assert names(folder, recursive=True) == ["deep/one.json", "kept"]
    assert size(file) == len("second")
    assert sha256(file) == "16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4"
    assert (file.exists(), file.is_file(), folder.exists(), folder.is_file()) == (
        True,
        True,
        True,
        False,
    )
    assert (file.name, str(file)) == ("one.json", f"{folder}/deep/one.json")


def test_names(folder: Location) -> None:
    for number in (10, 2, 0):
        write_table(folder / f"part-{number:05}-x.parquet", n=[number])
    write_table(folder / "deep" / "part-00001-x.parquet", n=[1])
    write_text(folder / "_SUCCESS", "")
    assert names(folder, r"part-\d+-.*\.parquet") == [
        f"part-{number:05}-x.parquet" for number in (0, 2, 10)
    ]
    assert names(folder, r"part-.*", recursive=True)[0] == "deep/part-00001-x.parquet"
    assert names(folder / "absent") == []


@pytest.mark.parametrize("copied_at_once", [files.COPIED_AT_ONCE, 2])
def test_moving_and_removing(
    folder: Location, monkeypatch: pytest.MonkeyPatch, copied_at_once: int
) -> None:
    monkeypatch.setattr(files, "COPIED_AT_ONCE", copied_at_once)
    for name, text in {"a": "new", "b": "old"}.items():
        write_text(folder / name, text)
    move(folder / "a", folder / "b")
    assert (names(folder), (folder / "b").read_text(encoding="utf-8")) == (["b"], "new")
    (folder / "b").unlink()
    (folder / "b").unlink(missing_ok=True)
    for _ in range(2):
        remove_folder(folder)
        assert not folder.exists()


@pytest.mark.parametrize("read", [Path.read_text, Path.unlink, size, sha256, parquet, read_table])
def test_what_is_absent(folder: Location, read: Callable[[Location], object]) -> None:
    asked = getattr(type(folder), read.__name__, read)
    with pytest.raises(FileNotFoundError):
        asked(folder / "absent")


def test_tables(folder: Location) -> None:
    write_table(folder / "date=1" / "t.parquet", n=[1, 2, 3], m=["a", "b", "c"])
    file = folder / "date=1" / "t.parquet"
    assert parquet(file).num_row_groups == 2
    assert read_table(file, ["m"], [("n", "in", [2, 3])]).to_pydict() == {"m": ["b", "c"]}
    assert read_table(file).column_names == ["n", "m"]


def test_what_a_stream_file_holds(folder: Location) -> None:
    nodes = pa.array([[1, 2, 3, 4], [], [5], [6, 7]], pa.list_(pa.int32()))
    write_table(folder / "w.parquet", nodes=nodes)
    write_table(
        folder / "p.parquet", centre=pa.array([1, 2, 3], pa.int32()), contexts=nodes.slice(0, 3)
    )
    windows, pairs = (
        of_stream_file(folder / "w.parquet", 2),
        of_stream_file(folder / "p.parquet", None),
    )
    # 1-2 2-3 3-4 1-3 2-4 6-7, each in both directions
    assert windows[:3] == (4, 7, 12)
    assert pairs[:3] == (3, 3, 5)
    assert windows[3:] == (size(folder / "w.parquet"), sha256(folder / "w.parquet"))
    assert of_file(folder / "w.parquet") == Contents(4, 0, 0, *windows[3:])


def test_the_manifest_says_what_is_missing_or_damaged(folder: Location) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.json is not there"):
        Manifest.read(folder)
    write_text(folder / "x", "text")
    check_file(folder, "x", 4, sha256(folder / "x"))
    for name, bytes_, message in (
        ("y", 4, "not there"),
        ("x", 3, "has 4 bytes"),
        ("x", 4, "SHA-256 differs"),
    ):
        with pytest.raises(ManifestError, match=message) as failed:
            check_file(folder, name, bytes_, "0" * 64)
        assert str(folder / name) in str(failed.value)


def test_a_manifest_is_kept_once(folder: Location) -> None:
    """By a name that sorts by time and tells two of one second apart."""
    made = {
        "window": 9,
        "views": {},
        "relations": {},
        "config": {},
        "config_hash": "0",
        "code_version": "0",
        "inputs": {},
    }
    manifests = [Manifest.model_validate(made | {"name": "x", "seed": seed}) for seed in (1, 2)]
    for manifest in [*manifests, *manifests]:
        manifest.keep(folder / "deep")
    kept = names(folder / "deep")
    assert all(re.fullmatch(r"20\d{6}T\d{6}Z-[0-9a-f]{12}\.json", name) for name in kept)
    assert sorted(Manifest.read_file(folder / "deep" / name).seed for name in kept) == [1, 2]


def test_a_place_reaches_another_process() -> None:
    where = location("s3a://bucket/x") / "y"
    assert pickle.loads(pickle.dumps(where)) == where


@pytest.mark.parametrize(
    ("text", "expected", "for_spark"),
    [
        ("/a/b", Path("/a/b"), "file:///a/b"),
        ("file:///a b/%20", Path("/a b/%20"), "file:///a b/%20"),
        ("file:/a", Path("/a"), "file:///a"),
        ("x:y/z", Path("x:y/z"), f"file://{Path.cwd()}/x:y/z"),
        ("s3a://bucket/a b/", Remote("s3a://bucket/a b"), "s3a://bucket/a b"),
        ("hdfs:///a", Remote("hdfs:///a"), "hdfs:///a"),
        (
            "abfss://box@account.dfs.core.windows.net/a",
            Remote("abfss://box@account.dfs.core.windows.net/a"),
            None,
        ),
    ],
)
def test_reading_a_place(text: str, expected: Location, for_spark: str | None) -> None:
    assert location(text) == expected
    assert spark_path(location(text)) == (for_spark or text)


@pytest.mark.parametrize(
    ("text", "message"),
    [("ftp://x/y", "no file system for 'ftp://'"), ("s3a:///x", "names no bucket")],
)
def test_what_is_no_place(text: str, message: str) -> None:
    with pytest.raises(LocationError, match=message):
        location(text)
    columns = {"user_id": "u", "item_id": "i", "timestamp": "t"}
    with pytest.raises(ValidationError, match=message):
        Project.model_validate(
            {
                "name": "x",
                "output": text,
                "views": {"item": {}},
                "source": {"path": "p", "format": "csv", "columns": columns},
            }
        )


def test_a_project_in_a_store_learns_on_this_machine() -> None:
    columns = {"user_id": "u", "item_id": "i", "timestamp": "t"}
    given = {
        "name": "x",
        "views": {"item": {}},
        "source": {"path": "p", "format": "csv", "columns": columns},
    }
    paths = Project.model_validate(
        given | {"output": "s3a://bucket", "local_output": "/shared"}
    ).paths
    assert (str(paths.shards), str(paths.lake)) == ("s3a://bucket/x/shards", "s3a://bucket/x/lake")
    assert (paths.model, paths.report) == (Path("/shared/x/model"), Path("/shared/x/report.html"))
    assert Project.model_validate(given | {"output": "/other"}).paths.model == Path(
        "/other/x/model"
    )
