"""The contract between the trainer and all that use its vectors: what an export holds.

A folder of Parquet files with ``id: string, vector: list<float32>[dimension]``, one row for each
node of the vocabulary in the order of its rows:

- ``<view>.parquet``: input vectors v. ``<view>.context.parquet``: output vectors v'.
- ``<relation>.<view>.parquet``: r = sigmoid(W e) of the nodes of one view in a relation's space.
"""

from typing import ClassVar

from pydantic import ConfigDict

from pipeline.contracts.sealed import ListedFile, Seal


class VectorsManifest(Seal):
    """The folder's manifest. Keys that a newer version adds are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    job: ClassVar[str] = "jobs/export.py"
    kind: ClassVar[str] = "the manifest of exported vectors"
    absent: ClassVar[str] = "no vectors were exported, or that did not finish"

    files: dict[str, ListedFile]
    dimension: int
    """Length d of every vector."""
    checkpoint: str
    """Folder of the checkpoint that the vectors come from."""
    step: int
    """Steps that were done then."""
    run: dict[str, str]
    """What decided the training: hashes of its settings and of the shards, and the share of the
    users who were for validation."""
    code_version: str

    @property
    def listed(self) -> dict[str, ListedFile]:
        """The files by name."""
        return self.files


def input_file(view: str) -> str:
    """Name of the file with a view's input vectors."""
    return f"{view}.parquet"


def output_file(view: str) -> str:
    """Name of the file with a view's output vectors."""
    return f"{view}.context.parquet"


def relational_file(relation: str, view: str) -> str:
    """Name of the file with a view's vectors in the space of a relation."""
    return f"{relation}.{view}.parquet"
