"""Where the tables of a source lie: configured paths, and what can be said of them before Spark
starts."""

import glob
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

from pipeline.config import Files, Source, near
from pipeline.errors import PipelineError
from pipeline.storage.locations import SCHEMES

NO_DATA = "holds no file with data; files whose names begin with _ or . are passed over"
# fmt: off
_READABLE = {
    *SCHEMES,
    "wasb", "wasbs", "adl", "oss", "obs", "cosn", "tos", "o3fs", "ofs", "webhdfs", "swebhdfs",
    "dbfs", "http", "https",
}
# fmt: on
"""Schemes of the stores that the pipeline writes to, and of those that Spark or a jar of its
cluster reads besides."""
_SCHEME = re.compile(r"^([a-z][a-z0-9]+):/", re.IGNORECASE)


class NoFileError(PipelineError):
    """A path at which there is no file with data."""


def resolve(path: str) -> str:
    """Replaces `${NAME}`, `${NAME:-default}` and `package:NAME/` in a configured path.

    Raises PipelineError for a variable that is not set or a package that is not installed.
    """

    def variable(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(3)
        value = os.environ.get(name) or default
        if value is None:
            raise PipelineError(
                f"path '{path}' needs the environment variable {name}, which is not set"
            )
        return value

    resolved = re.sub(r"\$\{(\w+)(:-([^}]*))?\}", variable, path)
    if resolved.startswith("package:"):
        package, _, inside = resolved.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise PipelineError(f"path '{path}': the Python package '{package}' is not installed")
        return str(Path(spec.origin).parent / inside)
    return resolved


def check_log(source: Source) -> None:
    """Raises PipelineError where the log's local files are no table of its format, NoFileError
    where there are none. Needs no Spark."""
    _check("source.path", source)


def check_items(source: Source) -> None:
    """The same for the item tables, naming the option."""
    for number, table in enumerate(source.items):
        _check(f"source.items[{number}].path", table)


def _check(option: str, files: Files) -> None:
    path = resolve(files.path)
    match = _SCHEME.match(path)
    if match is None or match[1].lower() == "file":
        _check_local(option, path, files)
        return
    scheme = match[1].lower()
    # One that is near to none may be of a jar that the cluster has.
    meant = near(scheme, _READABLE)
    if scheme not in _READABLE and meant:
        raise PipelineError(
            f"{option}: '{path}': Spark knows no file system for '{match[1]}:'{meant}"
        )


def _check_local(option: str, path: str, files: Files) -> None:
    # As in Hadoop's paths, characters stand for themselves: there is no %20.
    plain = re.sub("^file:/+", "/", path, flags=re.IGNORECASE)
    matches: list[Path] = []
    for pattern in _alternatives(plain):
        # Path.glob takes no absolute pattern.
        matches += map(Path, glob.glob(pattern))  # noqa: PTH207
    if not matches:
        raise NoFileError(
            f"{option}: there is no file '{path}'; correct the path, or set the variable it names"
        )
    is_delta = all((folder / "_delta_log").is_dir() for folder in matches)
    if files.format == "delta" and is_delta:
        return
    if not any(_data_files(matches)):
        raise NoFileError(f"{option}: '{path}' {NO_DATA}")
    if files.format == "delta":
        raise PipelineError(
            f"{option}: '{path}' is no Delta table, it has no _delta_log; correct the path or "
            "the format"
        )


def _alternatives(pattern: str) -> Iterator[str]:
    """The patterns that Spark's `{a,b}` stands for; Python's glob does not know it."""
    # Every second part stood between braces.
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = (part.split(",") if i % 2 else [part] for i, part in enumerate(parts))
    return ("".join(chosen) for chosen in product(*choices))


def _data_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files that Spark would read, of folders those inside."""
    for path in paths:
        inside = path.rglob("*") if path.is_dir() else [path]
        for file in inside:
            names = (*file.relative_to(path).parts, file.name)
            is_hidden = any(name.startswith(("_", ".")) for name in names)
            if file.is_file() and not is_hidden:
                yield file
