"""`--verify`: what is wrong with a folder of shards is found and named."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.contracts.sealed import ManifestError
from pipeline.contracts.shards import Manifest
from pipeline.contracts.verify import verify
from pipeline.storage.files import sha256
from tests.trainer.shards import random_corpus, write_shards


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(tmp_path, random_corpus())
    return tmp_path


def rewrite(folder: Path, path: str, table: pa.Table) -> None:
    """Another file in the place of a listed one, whose size and checksum the manifest is made to
    say."""
    pq.write_table(table, folder / path)
    said = Manifest.read(folder).model_dump(mode="json")

    def relist(part: Any) -> None:
        if isinstance(part, dict):
            if part.get("path") == path:
                part |= {"bytes": (folder / path).stat().st_size, "sha256": sha256(folder / path)}
            for inner in part.values():
                relist(inner)
        elif isinstance(part, list):
            for inner in part:
                relist(inner)

    relist(said)
    Manifest.model_validate(said).write(folder)


def error(folder: Path) -> str:
    with pytest.raises(ManifestError) as raised:
        list(verify(folder, Manifest.read(folder)))
    return str(raised.value)


def test_a_whole_folder_passes_file_by_file(shards: Path) -> None:
    found = list(verify(shards, Manifest.read(shards)))
    assert sorted(found) == sorted(
        str(path.relative_to(shards)) for path in shards.rglob("*.parquet")
    )


def test_a_missing_file_is_named(shards: Path) -> None:
    (shards / "item/pairs/1.parquet").unlink()
    assert "item/pairs/1.parquet is listed in manifest.json but not there" in error(shards)


def test_a_changed_byte_is_found(shards: Path) -> None:
    path = shards / "category/windows/0.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "category/windows/0.parquet is not the file" in error(shards)


def test_a_file_too_many_is_named(shards: Path) -> None:
    pq.write_table(pa.table({"nodes": [[1, 2]]}), shards / "item/windows/9.parquet")
    assert "item/windows/9.parquet is not listed" in error(shards)


def test_a_row_too_few_is_found(shards: Path) -> None:
    table = pq.read_table(shards / "item/windows/0.parquet")
    rewrite(shards, "item/windows/0.parquet", table.slice(1))
    assert (
        f"item/windows/0.parquet holds {len(table) - 1} rows, manifest.json says {len(table)}"
        in error(shards)
    )


def test_a_node_outside_the_vocabulary_is_found(shards: Path) -> None:
    table = pq.read_table(shards / "item_shop/pairs/0.parquet")
    values = table.column("contexts").to_pylist()
    values[0] = [99] * len(values[0])
    rewrite(
        shards,
        "item_shop/pairs/0.parquet",
        table.set_column(1, "contexts", pa.array(values, pa.list_(pa.int32()))),
    )
    assert "holds node 99, its vocabulary has rows 0 to 4" in error(shards)


def test_encodings_that_differ_in_one_context_are_told_apart(shards: Path) -> None:
    table = pq.read_table(shards / "shop/pairs/0.parquet")
    values = table.column("contexts").to_pylist()
    values[0][0] = (values[0][0] + 1) % 5
    rewrite(
        shards,
        "shop/pairs/0.parquet",
        table.set_column(1, "contexts", pa.array(values, pa.list_(pa.int32()))),
    )
    assert "the encodings of 'shop' hold different pairs" in error(shards)


@pytest.mark.parametrize(
    ("column", "wrong"), [("row", "does not number its rows 0 to 59"), ("id", "holds an id twice")]
)
def test_a_vocabulary_with_a_gap_or_an_id_twice_is_found(
    shards: Path, column: str, wrong: str
) -> None:
    table = pq.read_table(shards / "vocabulary/item.parquet")
    values = table.column(column).to_pylist()
    at = table.column_names.index(column)
    rewrite(
        shards,
        "vocabulary/item.parquet",
        table.set_column(at, column, pa.array([*values[:-1], values[0]], table.schema.types[at])),
    )
    assert wrong in error(shards)
