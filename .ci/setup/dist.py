"""Packs what spark-submit sends to a cluster: `dist.py FOLDER` writes m2grl.zip (code) and
environment.tar.gz (the packages it imports).

Run by the Python of the project's environment, out of which the packages are taken as they are
installed: no network is needed, and the cluster gets the very versions that the tests ran with.
Spark and its Python belong to the cluster. Both files are the same to the byte for the same
content.
"""

import gzip
import io
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePath

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
CODE = ("pipeline", "jobs", "trainer")
"""Of the trainer, the configuration alone is imported."""
PACKAGES = ("numpy", "pyarrow", "hdfs-native", "pandas", "pydantic", "tyro", "rich")
"""Pandas is what Spark asks the driver for where Python works on Arrow batches."""
LEFT_OUT = {"__pycache__", "tests", "include"}
"""Folders of packages that nothing imports."""
EPOCH = (1980, 1, 1, 0, 0, 0)


def main(folder: Path) -> None:
    """Writes both files and says how large they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in {"m2grl.zip": write_code, "environment.tar.gz": write_environment}.items():
        part = folder / f".{name}"
        write(part)
        part.replace(folder / name)
        print(f"{folder / name}: {(folder / name).stat().st_size / 1e6:,.1f} MB")


def write_code(path: Path) -> None:
    """The packages of the project with their data files, for --py-files."""
    found = (
        file
        for package in CODE
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(found):
            entry = zipfile.ZipInfo(file.relative_to(ROOT).as_posix(), EPOCH)
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)


def write_environment(path: Path) -> None:
    """What PYTHONPATH is to name once --archives has unpacked it."""
    files = {file for found in closure(PACKAGES).values() for file in files_of(found)}
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|") as archive,
    ):
        for file, full in sorted(files):
            data = full.read_bytes()
            entry = tarfile.TarInfo(file.as_posix())
            entry.size, entry.mode = len(data), 0o755 if full.stat().st_mode & 0o100 else 0o644
            archive.addfile(entry, io.BytesIO(data))


def closure(names: tuple[str, ...]) -> dict[str, Distribution]:
    """The distributions of these names and all that they need."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = distribution(name)
            needed = map(Requirement, found[name].requires or [])
            waiting += [
                one.name
                for one in needed
                if one.marker is None or one.marker.evaluate({"extra": ""})
            ]
    return found


def files_of(found: Distribution) -> Iterator[tuple[PurePath, Path]]:
    """(path below site-packages, where it lies) of a distribution's files."""
    for file in found.files or []:
        if ".." not in file.parts and not LEFT_OUT & set(file.parts):
            yield PurePath(*file.parts), Path(str(file.locate()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
