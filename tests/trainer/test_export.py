"""Exported vectors: raw ids in row order, from checkpoints of any number of ranks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.contracts.sealed import MANIFEST, ManifestError
from pipeline.storage.files import code_version
from tests.trainer.runs import SEED, SMALL, on_ranks
from tests.trainer.shards import random_corpus, write_shards
from trainer.checkpoints import files
from trainer.checkpoints.files import CheckpointError
from trainer.config import Train
from trainer.export import export
from trainer.ranks.comm import LocalComm
from trainer.training import CHECKPOINTS, train

NODES = {"item": 60, "category": 7, "shop": 5}
CONFIG = Train(**{**SMALL, "batch_pairs": 1000})


def trained(folder: Path, ranks: int = 1) -> tuple[Path, Path, Path]:
    """(shards, checkpoints, where embeddings go)."""
    shards = folder / "shards"
    write_shards(shards, random_corpus())
    on_ranks(ranks, lambda comm: train(shards, folder, CONFIG, SEED, comm))
    return shards, folder / CHECKPOINTS, folder / "embeddings"


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_id_has_its_row_whatever_the_ranks(
    tmp_path: Path, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PIECE_ROWS", 9)
    shards, checkpoints, embeddings = trained(tmp_path, ranks)
    export(shards, checkpoints, embeddings)
    newest = files.newest_checkpoint(checkpoints)
    saved = files.verified_manifest(newest)
    # Rank r's file holds the keys r, r + ranks, ...
    whole = np.empty((saved.keys.size, saved.dimension), np.float32)
    for rank in range(ranks):
        whole[rank::ranks] = (
            files._open(newest, f"rows-{rank:05d}-of-{ranks:05d}.safetensors")
            .get_tensor("values")
            .numpy()
        )
    for table in saved.tables:
        suffix = "" if table.side == "input" else ".context"
        exported = pq.read_table(embeddings / f"{table.view}{suffix}.parquet")
        assert exported.column_names == ["id", "vector"]
        assert exported.column("id").to_pylist() == [
            f"{table.view}-{row}" for row in range(NODES[table.view])
        ]
        vectors = np.array(exported.column("vector").to_pylist(), np.float32)
        assert np.array_equal(vectors, whole[table.offset : table.offset + table.rows])
        assert np.abs(vectors).max() > 0


def test_relational_vectors_are_sigmoid_of_w_e(tmp_path: Path) -> None:
    shards, checkpoints, embeddings = trained(tmp_path)
    export(shards, checkpoints, embeddings)
    dense = files.dense_parameters(files.newest_checkpoint(checkpoints))
    for relation, view in (
        ("item_category", "item"),
        ("item_category", "category"),
        ("item_shop", "shop"),
    ):
        e, r = (
            torch.tensor(pq.read_table(embeddings / f"{name}.parquet").column("vector").to_pylist())
            for name in (view, f"{relation}.{view}")
        )
        assert torch.allclose(r, 1 / (1 + torch.exp(-(dense[f"{relation}.W"] @ e.T).T)), atol=1e-6)


def test_the_manifest_lists_what_was_written(tmp_path: Path) -> None:
    shards, checkpoints, embeddings = trained(tmp_path)
    export(shards, checkpoints, embeddings)
    record = json.loads((embeddings / MANIFEST).read_text(encoding="utf-8"))
    assert record["code_version"] == code_version()
    assert set(record["files"]) == {path.name for path in embeddings.glob("*.parquet")}
    assert len(record["files"]) == 2 * 3 + 2 * 2
    assert record["checkpoint"] == files.newest_checkpoint(checkpoints).name
    assert record["dimension"] == CONFIG.dimension


def test_an_export_that_was_cut_short_has_no_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, checkpoints, embeddings = trained(tmp_path)
    export(shards, checkpoints, embeddings)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.export._write", killed)
    with pytest.raises(KeyboardInterrupt):
        export(shards, checkpoints, embeddings)
    assert not (embeddings / MANIFEST).exists()


def test_changed_shards_are_refused(tmp_path: Path) -> None:
    shards, checkpoints, embeddings = trained(tmp_path)
    write_shards(shards, random_corpus(seed=4))
    with pytest.raises(CheckpointError, match="was trained on other shards"):
        export(shards, checkpoints, embeddings)
    with pytest.raises(CheckpointError, match="another set of shards"):
        train(shards, tmp_path, CONFIG, SEED, LocalComm(), resume=True)


def test_a_changed_vocabulary_is_refused(tmp_path: Path) -> None:
    shards, checkpoints, embeddings = trained(tmp_path)
    (shards / "vocabulary" / "shop.parquet").write_bytes(b"")
    with pytest.raises(ManifestError, match=r"shop\.parquet has 0 bytes"):
        export(shards, checkpoints, embeddings)
