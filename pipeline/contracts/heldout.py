"""The contract between the pipeline and the evaluation: what was held out of training, and what
each user did before.

A folder of three Parquet files with raw ids, and `manifest.json` written last:

- ``history.parquet``: ``user_id: string, item_ids: list<string>``: the training clicks, in order,
  of each user who has held-out clicks (an empty list for a user who had none).
- ``sessions.parquet``: ``user_id: string, session_id: string, item_ids: list<string>``: held-out
  clicks, in order; sessions of a user in order.
- ``counts.parquet``: ``item_id: string, clicks: int64``: every item clicked in the training part,
  before any limit of a vocabulary.

Some of the users are for validation: what chooses among trainings or their checkpoints looks at
these alone, and no reported figure does.
"""

import hashlib
import json
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import ValidationError

from pipeline.contracts.shards import MANIFEST, ManifestError, Part, check_file
from pipeline.storage.files import sha256, write_text
from pipeline.storage.locations import Location, size

FORMAT: Literal["m2grl-heldout"] = "m2grl-heldout"
VERSION = 1
HISTORY, SESSIONS, COUNTS = "history.parquet", "sessions.parquet", "counts.parquet"
VALIDATION_USERS = "share of validation users"
"""Key of a run record: which users' cases the training looked at."""
Ints = npt.NDArray[np.integer[Any]]


class ListedFile(Part):
    """One file of the folder."""

    bytes: int
    sha256: str


class HeldOut(Part):
    """The folder's manifest."""

    format: str = FORMAT
    version: int = VERSION
    files: dict[str, ListedFile]


def write_manifest(folder: Location) -> None:
    """Lists the three files; the last thing done in `folder`."""
    files = {name: folder / name for name in (HISTORY, SESSIONS, COUNTS)}
    listed = {
        name: ListedFile(bytes=size(path), sha256=sha256(path)) for name, path in files.items()
    }
    write_text(folder / MANIFEST, HeldOut(files=listed).model_dump_json(indent=2) + "\n")


def check(folder: Location) -> None:
    """Verifies that the folder is whole. Raises ManifestError naming what is absent, damaged or of
    another version."""
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if (raw["format"], raw["version"]) != (FORMAT, VERSION):
            raise ManifestError(
                f"{path} is of format and version {(raw['format'], raw['version'])}, this code "
                f"reads {(FORMAT, VERSION)}"
            )
        manifest = HeldOut.model_validate(raw)
    except FileNotFoundError:
        raise ManifestError(
            f"{path} is not there: nothing was held out, or the job did not finish; set "
            "[split], run jobs/preprocess.py"
        ) from None
    except (json.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
        raise ManifestError(
            f"{path} is not a manifest: {error}; run jobs/preprocess.py again"
        ) from None
    for name, file in manifest.files.items():
        check_file(folder, name, file.bytes, file.sha256)


def of_validation(user_ids: pa.Array, share: float) -> npt.NDArray[np.bool_]:
    """[users] who are for validation: about this share of all. Whether a user is depends on the id
    alone, and who is stays so in a larger share."""
    encoded = user_ids.dictionary_encode()
    below = share * 2**64
    chosen = [_hash(user) < below for user in encoded.dictionary.to_pylist()]
    found: npt.NDArray[np.bool_] = np.array(chosen, np.bool_)[encoded.indices.to_numpy()]
    return found


def _hash(user_id: str) -> int:
    """64 bits."""
    return int.from_bytes(
        hashlib.blake2b(user_id.encode(), digest_size=8, person=b"validation").digest(), "little"
    )


def next_items(session: Ints, item: Ints) -> tuple[Ints, Ints]:
    """The next-item cases in clicks that stand in order: positions of the triggers, and of the
    targets.

    A case is a click with the next click on another item in its session. A run of clicks on one
    item is one click, hence one case.
    """
    begins = np.ones(len(item), np.bool_)
    begins[1:] = (session[1:] != session[:-1]) | (item[1:] != item[:-1])
    at = np.flatnonzero(begins)
    followed = session[at[1:]] == session[at[:-1]]
    return at[:-1][followed], at[1:][followed]
