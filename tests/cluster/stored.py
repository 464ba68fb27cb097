"""What holds of a project whose log and output lie in a store, whichever it is: its check imports
these tests and has a fixture `done`."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.contracts.shards import Manifest
from pipeline.storage.locations import Location, location, names
from tests.cluster import shop
from tests.cluster.machines import preprocess, run


@dataclass(frozen=True)
class Done:
    """A project that was preprocessed once for all tests."""

    config: Path
    folder: Path
    """Of this machine."""
    raw: Location
    """The log's folder."""
    output: str
    """The URI of --output."""

    @property
    def store(self) -> Location:
        """The project's folder."""
        return location(f"{self.output}/shop")


def test_all_output_is_in_the_store(done: Done) -> None:
    found = names(done.store, recursive=True)
    assert {"shards/manifest.json", "heldout/manifest.json", "statistics.json"} <= set(found)
    assert any(name.startswith("lake/events/_delta_log/") for name in found)
    assert not [
        name for name in found if "_scratch" in name or "_temporary" in name or ".part" in name
    ]
    assert not (done.folder / "out").exists()


def test_shards_are_those_of_local_files(done: Done) -> None:
    for name, text in shop.files().items():
        (done.folder / name).parent.mkdir(exist_ok=True)
        (done.folder / name).write_text(text, encoding="utf-8")
    preprocess([shop.write_project(done.folder, done.folder), "--output", done.folder / "local"])
    local = done.folder / "local" / "shop"
    assert shop.held(Manifest.read(done.store / "shards")) == shop.held(
        Manifest.read(local / "shards")
    )
    assert shop.held_out(done.store / "heldout") == shop.held_out(local / "heldout")


def test_the_trainer_reads_shards_from_the_store(done: Done) -> None:
    where = ["--output", done.output, "--local-output", str(done.folder / "learned")]
    config = str(shop.write_project(done.folder, done.raw))
    for job in ("train", "export", "similar", "evaluate", "report"):
        run(["python", f"jobs/{job}.py", config, *where])
    learned = done.folder / "learned" / "shop"
    nodes = Manifest.read(done.store / "shards").views["item"].vocabulary.nodes
    assert pq.ParquetFile(learned / "embeddings" / "item.parquet").metadata.num_rows == nodes
    assert (
        json.loads((learned / "evaluation.json").read_text(encoding="utf-8"))["cases"]["users"]
        > 100
    )
    assert (learned / "report.html").is_file()


def test_verify_reads_the_store(done: Done) -> None:
    printed = run(
        ["python", "jobs/preprocess.py", str(done.config), "--verify", f"{done.store}/shards"]
    )
    assert "files are as manifest.json says" in printed
