"""Where files lie: a path of this machine, or a URI of a store that every machine of a cluster
reaches.

A local location is a `pathlib.Path`. A remote one is a `Remote`, which has those methods of a path
that are needed here, over pyarrow's file systems. What both are asked beyond that are the functions
of this module; the whole-or-absent writing of both is in pipeline/storage/files.py.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from pipeline.storage import hdfs

# fmt: off
SCHEMES = {
    "s3a": "s3", "s3": "s3", "hdfs": "hdfs", "viewfs": "viewfs", "abfs": "abfs", "abfss": "abfss",
    "gs": "gs",
}
# fmt: on
"""Scheme as Spark knows it -> as pyarrow does."""
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Environment variables of the AWS tools that name another server of the S3 protocol; the first
that is set wins."""
HDFS = {"hdfs", "viewfs"}
"""Hadoop's own: the host may be left out, where core-site.xml names one, and a renamed file takes
the place of an older one."""
_URI = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/]*)/*(?P<key>.*)", re.DOTALL
)


class LocationError(ValueError):
    """A path or URI that cannot be a location; the message says what is possible."""


@dataclass(frozen=True)
class Remote:
    """A file or folder of a store, by its URI without a slash at the end. Methods that `Path` has
    too do and raise what they do there."""

    uri: str

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> "Remote":
        return Remote(f"{self.uri}/{name}")

    @property
    def name(self) -> str:
        """The last part of the URI."""
        return self.uri.rsplit("/", 1)[-1]

    @property
    def scheme(self) -> str:
        """As pyarrow knows it."""
        return SCHEMES[urlsplit(self.uri).scheme.lower()]

    @property
    def store(self) -> tuple[fs.FileSystem, str]:
        """The file system, and the path in it."""
        match = cast(re.Match[str], _URI.fullmatch(self.uri))
        system, base = _file_system(self.scheme, match["authority"])
        return system, f"{base}/{match['key']}".rstrip("/")

    def info(self) -> fs.FileInfo:
        """Kind and size, of a file that is not there too."""
        system, path = self.store
        return system.get_file_info(path)

    def exists(self) -> bool:
        """Whether a file or folder is there."""
        return bool(self.info().type != fs.FileType.NotFound)

    def is_file(self) -> bool:
        """Whether a file is there."""
        return bool(self.info().type == fs.FileType.File)

    # A path's method has a mode.
    def open(self, mode: Literal["rb"] = "rb") -> pa.NativeFile:  # noqa: ARG002
        """The bytes of a file, to be read in any order. Raises FileNotFoundError."""
        system, path = self.store
        return system.open_input_file(path)

    def read_text(self, encoding: str = "utf-8") -> str:
        """All of a text file. Raises FileNotFoundError."""
        with self.open() as file:
            return str(file.read(), encoding)

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes a file. Raises FileNotFoundError where it is absent, unless that is fine."""
        system, path = self.store
        if self.is_file() or not missing_ok:
            system.delete_file(path)


Location: TypeAlias = Path | Remote


def location(text: str) -> Location:
    """What a path, or a URI such as `s3a://bucket/folder` or `file:///folder`, names. Raises
    LocationError for a scheme that is unknown.

    Characters stand for themselves, as in Hadoop's paths: there is no %20. Nothing is opened.
    """
    if match := re.match(r"file:(?://)?(?=/)", text):
        return Path(text[match.end() :])
    uri = _URI.fullmatch(text)
    if uri is None:
        return Path(text)
    scheme = uri["scheme"]
    if scheme.lower() not in SCHEMES:
        raise LocationError(
            f"'{text}': no file system for '{scheme}://'; a path, file:// or "
            f"{'://, '.join(SCHEMES)}:// are possible"
        )
    needs_authority = SCHEMES[scheme.lower()] not in HDFS
    if needs_authority and not uri["authority"]:
        raise LocationError(f"'{text}' names no bucket or container after '{scheme}://'")
    return Remote(text.rstrip("/"))


def spark_path(where: Location) -> str:
    """How Spark is told of a location: always with a scheme, since the default of a cluster may be
    another than the local disk."""
    return f"file://{where.absolute()}" if isinstance(where, Path) else where.uri


def size(where: Location) -> int:
    """Bytes of a file. Raises FileNotFoundError."""
    if isinstance(where, Path):
        return where.stat().st_size
    if not where.is_file():
        raise FileNotFoundError(f"{where} is not there")
    return int(where.info().size)


def names(folder: Location, pattern: str = ".*", recursive: bool = False) -> list[str]:
    """Files of a folder whose name matches a regular expression: paths relative to the folder,
    sorted; none where it is absent."""
    if isinstance(folder, Path):
        paths = _local_files(folder, recursive)
    else:
        paths = _remote_files(folder, recursive)
    return sorted(path for path in paths if re.fullmatch(pattern, path.rsplit("/", 1)[-1]))


def _local_files(folder: Path, recursive: bool) -> Iterator[str]:
    paths = folder.rglob("*") if recursive else folder.glob("*")
    return (path.relative_to(folder).as_posix() for path in paths if path.is_file())


def _remote_files(folder: Remote, recursive: bool) -> Iterator[str]:
    system, path = folder.store
    selector = fs.FileSelector(path, allow_not_found=True, recursive=recursive)
    for info in system.get_file_info(selector):
        if info.type == fs.FileType.File:
            # A file system may put a scheme or a host before the path.
            end = info.path.index(path) + len(path)
            yield info.path[end + 1 :]


def parquet(where: Location) -> pq.ParquetFile:
    """An open Parquet file. Of a remote one, the columns of a row group are read in few, large
    requests. Raises FileNotFoundError."""
    if isinstance(where, Path):
        return pq.ParquetFile(where)
    return pq.ParquetFile(where.open(), pre_buffer=True)


def read_table(
    where: Location, columns: Sequence[str] | None = None, filters: Any = None
) -> pa.Table:
    """The pyarrow table in a Parquet file: some of its columns, and of its rows those that the
    filters of pyarrow let through.

    Raises FileNotFoundError.
    """
    names = None if columns is None else list(columns)
    # No partitioning: a folder called name=value on the way is no column.
    options = {"columns": names, "filters": filters, "partitioning": None}
    if isinstance(where, Path):
        return pq.read_table(where, **options)
    system, path = where.store
    return pq.read_table(path, filesystem=system, **options)


@cache
def _file_system(scheme: str, authority: str) -> tuple[fs.FileSystem, str]:
    """A store's file system, and what stands before the paths in it."""
    endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)
    if scheme == "s3" and endpoint is not None:
        server = urlsplit(endpoint if "//" in endpoint else f"https://{endpoint}")
        # Other servers have no regions, but requests are signed with one.
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        system = fs.S3FileSystem(
            scheme=server.scheme, endpoint_override=server.netloc, region=region
        )
        return system, authority
    if scheme in HDFS:
        return hdfs.file_system(scheme, authority), ""
    system, base = fs.FileSystem.from_uri(f"{scheme}://{authority}/")
    return system, base.rstrip("/")
