"""Files that are either whole or absent, on this machine's disk or in a store, and their
checksums."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

from pipeline.storage.locations import HDFS, Location, Remote, size

WRITTEN_WHOLE = {"s3", "gs"}
"""Stores in which an object appears when its last byte has come, in the place of an older one."""
COPIED_AT_ONCE = 5 << 30
"""Bytes of an object that S3 copies in one request, which is what pyarrow asks for."""
COPIED_BLOCK = 32 << 20
"""Bytes held while a larger one is copied."""


def sha256(path: Location) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what was written there becomes `path` at the end,
    whole and flushed, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        yield part
        # The bytes first: the new name must not reach the disk before them.
        flush(part)
        part.replace(path)
        flush(path.parent)
    finally:
        part.unlink(missing_ok=True)


def code_version() -> str:
    """The commit of the code, where it lies in a git checkout and git is there."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return described.stdout.strip() or "unknown"


def write_text(path: Location, text: str) -> None:
    """Writes a whole UTF-8 text file, replacing what was there in one step (on Azure it is absent
    for a moment)."""
    if isinstance(path, Remote):
        _write_remote(path, text.encode("utf-8"))
        return
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def _write_remote(path: Remote, data: bytes) -> None:
    part = path if path.scheme in WRITTEN_WHOLE else Remote(f"{path}.part")
    system, target = part.store
    with system.open_output_stream(target) as file:
        file.write(data)
    if part != path:
        move(part, path)


def move(source: Location, target: Location) -> None:
    """Gives a whole file another name on the same disk or store, in the place of what had that
    name. A store of objects copies it; on S3 one of more than COPIED_AT_ONCE bytes goes through
    this process."""
    if isinstance(source, Path) and isinstance(target, Path):
        flush(source)
        source.replace(target)
        flush(target.parent)
        return
    assert isinstance(source, Remote), source
    assert isinstance(target, Remote), target
    if source.scheme not in HDFS:
        target.unlink(missing_ok=True)
    system, path = source.store
    if source.scheme == "s3" and size(source) > COPIED_AT_ONCE:
        with (
            system.open_input_stream(path) as read,
            system.open_output_stream(target.store[1]) as written,
        ):
            shutil.copyfileobj(read, written, COPIED_BLOCK)
        source.unlink()
    else:
        system.move(path, target.store[1])


def remove_folder(folder: Location) -> None:
    """Removes a folder with all it holds; one that is not there is fine."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    entries = _entries(folder)
    while entries:
        system, path = folder.store
        try:
            system.delete_dir(path)
            return
        except OSError:
            # A server that keeps objects as files refuses to remove a folder's mark before what
            # lies in it, which is gone the next time.
            before, entries = entries, _entries(folder)
            if entries >= before:
                raise


def _entries(folder: Remote) -> int:
    """Files and folders under a folder, itself included; 0 where it is absent."""
    system, path = folder.store
    inside = system.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    is_there = system.get_file_info(path).type == fs.FileType.Directory
    return len(inside) + int(is_there)


def flush(path: Path) -> None:
    """Asks the operating system to put a file's bytes, or a folder's entries, on the disk.

    Until then a name may outlive a loss of power, and what it names may not.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
