"""The contract between the pipeline and the evaluation: what was held out of training, and what each user did before.

A folder of three Parquet files with raw ids, and `manifest.json` written last:

- ``history.parquet``: ``user_id: string, item_ids: list<string>``: the training clicks, in order, of each user who has held-out clicks
  (an empty list for a user who had none).
- ``sessions.parquet``: ``user_id: string, session_id: string, item_ids: list<string>``: held-out clicks, in order; sessions of a user
  in order.
- ``counts.parquet``: ``item_id: string, clicks: int64``: every item clicked in the training part, before any limit of a vocabulary.
"""

import json
from typing import Literal

from pydantic import ValidationError

from pipeline.files import sha256, write_text
from pipeline.manifest import MANIFEST, ManifestError, Part, check_file
from pipeline.places import Place, size

FORMAT: Literal["m2grl-heldout"] = "m2grl-heldout"
VERSION = 1
HISTORY, SESSIONS, COUNTS = "history.parquet", "sessions.parquet", "counts.parquet"


class ListedFile(Part):
    """One file of the folder."""

    bytes: int
    sha256: str


class HeldOut(Part):
    """The folder's manifest."""

    format: str = FORMAT
    version: int = VERSION
    files: dict[str, ListedFile]


def write_manifest(folder: Place) -> None:
    """Lists the three files; the last thing done in `folder`."""
    files = {name: folder / name for name in (HISTORY, SESSIONS, COUNTS)}
    listed = {name: ListedFile(bytes=size(path), sha256=sha256(path)) for name, path in files.items()}
    write_text(folder / MANIFEST, HeldOut(files=listed).model_dump_json(indent=2) + "\n")


def check(folder: Place) -> None:
    """Verifies that the folder is whole. Raises ManifestError naming what is absent, damaged or of another version."""
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if (raw["format"], raw["version"]) != (FORMAT, VERSION):
            raise ManifestError(f"{path} is of format and version {(raw['format'], raw['version'])}, this code reads {(FORMAT, VERSION)}")
        manifest = HeldOut.model_validate(raw)
    except FileNotFoundError:
        raise ManifestError(
            f"{path} is not there: nothing was held out, or the job did not finish; set [split], run jobs/preprocess.py"
        ) from None
    except (json.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
        raise ManifestError(f"{path} is not a manifest: {error}; run jobs/preprocess.py again") from None
    for name, file in manifest.files.items():
        check_file(folder, name, file.bytes, file.sha256)
