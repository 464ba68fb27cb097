"""The job that writes similarity maps."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.common.config import load
from jobs.similar import main
from pipeline.config import fingerprint
from pipeline.storage.files import sha256
from tests.jobs import evaluation_toy as toy


def written(tmp_path: Path, score: str) -> dict[str, list[tuple[str, int]]]:
    table = pq.read_table(tmp_path / f"build/toy/similar/{score}.parquet")
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("trigger_id", "string"),
        ("item_id", "string"),
        ("rank", "int32"),
        ("score", "float"),
    ]
    found: dict[str, list[tuple[str, int]]] = {}
    for row in table.to_pylist():
        found.setdefault(row["trigger_id"], []).append((row["item_id"], row["rank"]))
    return found


def test_writes_the_map_of_the_configured_score(tmp_path: Path) -> None:
    main(
        [
            str(toy.write_project(tmp_path)),
            "--evaluate.score",
            "cosine",
            "--evaluate.neighbours",
            "2",
        ]
    )
    # angles by hand: a 0, b 37, c 90, d 45, e 180 degrees; f has a zero vector
    assert written(tmp_path, "cosine") == {
        "a": [("b", 1), ("d", 2)],
        "b": [("d", 1), ("a", 2)],
        "c": [("d", 1), ("b", 2)],
        "d": [("b", 1), ("a", 2)],
        "e": [("c", 1), ("d", 2)],
    }


def test_a_map_says_what_it_was_made_from(tmp_path: Path) -> None:
    config = toy.write_project(tmp_path)
    main([str(config), "--seed", "9"])
    metadata = pq.read_schema(tmp_path / "build/toy/similar/conditional.parquet").metadata
    settings = load([config]).evaluate.model_dump(mode="json")
    assert {
        key.decode(): value.decode() for key, value in metadata.items() if key != b"ARROW:schema"
    } == {
        "embeddings": sha256(tmp_path / "build/toy/embeddings/manifest.json"),
        "score": "conditional",
        "config_hash": fingerprint(settings),
        "seed": "9",
    }


def test_the_default_score_is_the_conditional(tmp_path: Path) -> None:
    main([str(toy.write_project(tmp_path))])
    # Every item that was clicked has a list and may stand in one; f only keeps its row of the
    # vocabulary.
    lists = written(tmp_path, "conditional")
    assert list(lists) == toy.IDS[:-1]
    assert {item for found in lists.values() for item, _ in found} == set(toy.IDS[:-1])


def test_shows_titles_of_well_known_items(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(toy.write_project(tmp_path)), "--evaluate.score", "cosine"])
    lines = [
        line for line in capsys.readouterr().out.splitlines() if "Title" in line or "│" in line
    ]
    assert "Title a" in lines[0]
    assert "30" in lines[0]
    assert "Title b" in lines[0]  # the nearest stands beside it


def test_shows_the_items_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(toy.write_project(tmp_path)), "--evaluate.score", "cosine", "--items", "f", "e"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [cell.strip() for cell in rows[0].split("│")[1:4]] == [
        "f",
        "0",
        "-",
    ]  # no title, no direction by cosine
    assert rows[1].startswith("│ Title e")


def test_an_unknown_item_is_named_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(toy.write_project(tmp_path)), "--items", "a", "zebra"])
    assert "--items zebra: not in the vocabulary" in str(stopped.value.code)
    assert not (tmp_path / "build/toy/similar").exists()


def test_without_an_export(tmp_path: Path) -> None:
    config = toy.write_project(tmp_path)
    (tmp_path / "build/toy/embeddings/manifest.json").unlink()
    with pytest.raises(SystemExit) as stopped:
        main([str(config)])
    assert "run jobs/export.py" in str(stopped.value.code)


def test_a_map_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy.write_project(tmp_path)
    monkeypatch.setattr("jobs.similarity.maps._table", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main([str(config)])
    assert list((tmp_path / "build/toy/similar").iterdir()) == []
