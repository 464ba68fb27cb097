"""Sealed folders: a folder holds what its manifest lists, and nothing without one.

The manifest is the last file written and the first removed. It names every file with its size and
checksum, so that a reader can tell a whole folder from a half-written or a damaged one.
"""

import json
from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.storage.files import sha256, write_text
from pipeline.storage.locations import Location, size

MANIFEST = "manifest.json"


class ManifestError(Exception):
    """A sealed folder is not there, not whole, or not of a kind that this version reads."""

    def __init__(self, what: str, remedy: str | None = None) -> None:
        """`what` is wrong, and where; `remedy`: what to do about it."""
        super().__init__(what if remedy is None else f"{what}; {remedy}")
        self.what, self.remedy = what, remedy


class FrozenRecord(BaseModel):
    """Base of what contracts write as JSON: frozen, and without keys that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OpenRecord(BaseModel):
    """Base of what is read of several versions: keys that a reader does not know are passed
    over."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)


class ListedFile(FrozenRecord):
    """Size and checksum of a file, by which a reader knows it again."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Location) -> Self:
        """What a file has now. Raises FileNotFoundError."""
        return cls(bytes=size(path), sha256=sha256(path))


class Seal(FrozenRecord):
    """A folder's manifest: what all kinds of sealed folders share."""

    job: ClassVar[str]
    """The command that writes the folder, such as jobs/preprocess.py."""
    kind: ClassVar[str] = "a manifest"
    """What the file is called where it is not one."""
    absent: ClassVar[str]
    """What it means that the manifest is not there."""
    when_absent: ClassVar[str] = ""
    """What to do then, where that is more than to run the job."""

    @property
    def listed(self) -> Mapping[str, ListedFile]:
        """Path relative to the folder -> the file."""
        raise NotImplementedError

    @property
    def text(self) -> str:
        """The manifest as it is written."""
        return self.model_dump_json(indent=2) + "\n"

    def write(self, folder: Location) -> None:
        """Seals a folder; the last thing done there."""
        write_text(folder / MANIFEST, self.text)

    @classmethod
    def read(cls, folder: Location) -> Self:
        """The manifest of a folder. Raises ManifestError, as `read_file` does."""
        return cls.read_file(folder / MANIFEST)

    @classmethod
    def read_file(cls, path: Location) -> Self:
        """A manifest by its own path.

        Raises ManifestError where it is absent, unreadable or of another version.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            remedy = cls.when_absent or f"run {cls.job}"
            raise ManifestError(f"{path} is not there: {cls.absent}", remedy) from None
        again = f"run {cls.job} again"
        try:
            raw = json.loads(text)
            cls._check_version(path, raw, again)
            return cls.model_validate(raw)
        except (json.JSONDecodeError, AttributeError, ValidationError) as error:
            raise ManifestError(f"{path} is not {cls.kind}: {error}", again) from None

    @classmethod
    def _check_version(cls, path: Location, raw: Mapping[str, object], again: str) -> None:
        fields = cls.model_fields
        if "version" not in fields:
            return
        here = raw.get("format"), raw.get("version")
        read = fields["format"].default, fields["version"].default
        if here != read:
            what = f"{path} is of format and version {here}, this code reads {read}"
            raise ManifestError(what, again)

    def check(self, folder: Location) -> None:
        """Compares every listed file with what lies there. Raises ManifestError naming the first
        that is absent or another."""
        for path, file in self.listed.items():
            check_file(folder, path, file.bytes, file.sha256, self.job)


def check_file(
    folder: Location, path: str, bytes_: int, digest: str, job: str = "jobs/preprocess.py"
) -> None:
    """Compares one listed file with its size and checksum.

    Raises ManifestError naming the file, and the `job` that writes it.
    """
    full, again = folder / path, f"run {job} again"
    if not full.is_file():
        raise ManifestError(f"{full} is listed in {MANIFEST} but not there", again)
    if size(full) != bytes_:
        raise ManifestError(f"{full} has {size(full)} bytes, {MANIFEST} says {bytes_}", again)
    if sha256(full) != digest:
        what = f"{full} is not the file that {MANIFEST} lists (its SHA-256 differs)"
        raise ManifestError(what, again)
