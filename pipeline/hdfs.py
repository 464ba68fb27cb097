"""HDFS as one of pyarrow's file systems, through hdfs-native's client, which needs neither Java nor libhdfs."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyarrow import fs


def file_system(scheme: str, authority: str) -> fs.FileSystem:
    """The file system of `hdfs://host:port`, of a name service, or without a name the one that core-site.xml has as the default.

    core-site.xml and hdfs-site.xml are read from HADOOP_CONF_DIR, or from etc/hadoop in HADOOP_HOME; the user is HADOOP_USER_NAME, or who
    has Kerberos's ticket. Nothing is connected. Raises OSError where nothing says which host is meant.
    """
    # Imported here: nobody else waits for it.
    from hdfs_native.fsspec import HdfsFileSystem, ViewfsFileSystem

    host, _, port = authority.partition(":")
    with _refusals():
        client = {"hdfs": HdfsFileSystem, "viewfs": ViewfsFileSystem}[scheme](host or None, int(port) if port else None)
    return fs.PyFileSystem(fs.FSSpecHandler(_Client(client)))


@contextmanager
def _refusals() -> Iterator[None]:
    """Gives what HDFS refuses the type that other file systems give it: hdfs-native has RuntimeErrors, with Java's stack in the text."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(re.sub(r"(\\n|\n)\s*(\\t)?at .*", "", str(error), flags=re.DOTALL)) from error


class _Told:
    """A thing of hdfs-native's whose methods raise OSError."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return _refusals()(found) if callable(found) else found


class _Client(_Told):
    """The file system. A file that is renamed takes the place of one that has the name, in one step."""

    def open(self, *path: Any, **options: Any) -> _Told:
        with _refusals():
            return _Told(self._inner.open(*path, **options))

    def isfile(self, path: str) -> bool:
        # fsspec's own takes any refusal for an absent file.
        return bool(self.exists(path) and self.info(path)["type"] == "file")

    def mv(self, path: str, target: str, **_: Any) -> None:
        with _refusals():
            self._inner.mv(path, target, overwrite=True)
