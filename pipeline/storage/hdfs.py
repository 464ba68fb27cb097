"""HDFS as one of pyarrow's file systems, over hdfs-native's client, which needs neither Java nor
libhdfs."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from pyarrow import fs

FOLDERS = 0o755
"""Permissions of folders that are made."""
_REFUSED = re.compile(r'RPCError\("[^"]*", "(?P<message>.*?)(?:\\n\\tat .*)?"\)', re.DOTALL)
"""How the client words what a server refuses: Java's class, the message, and Java's stack."""


def file_system(scheme: str, authority: str) -> fs.FileSystem:
    """The file system of `hdfs://host:port`, of a name service, or without a name the one that
    core-site.xml has as the default.

    core-site.xml and hdfs-site.xml are read from HADOOP_CONF_DIR, or from etc/hadoop in
    HADOOP_HOME; the user is HADOOP_USER_NAME, or who has Kerberos's ticket. Nothing is connected.
    Raises OSError where nothing says which host is meant.
    """
    # Imported here: nobody else waits for it.
    from hdfs_native import Client

    where = f"{scheme}://{authority}"
    with _os_errors(where):
        return fs.PyFileSystem(Handler(Client(where)))


@contextmanager
def _os_errors(path: str) -> Iterator[None]:
    """Gives an error of the client, a RuntimeError or one that names no file, the type of other
    file systems' and the file's name."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except (RuntimeError, OSError) as error:
        message = str(error)
        refused = _REFUSED.fullmatch(message)
        if refused:
            message = refused["message"].replace('\\"', '"').replace("\\n", "\n")
        raise OSError(f"{message} ({path})") from error


class Handler(fs.FileSystemHandler):  # type: ignore[misc]
    """What pyarrow asks of a file system. What the server refuses is never taken for a file that is
    not there."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def get_type_name(self) -> str:
        """As pyarrow shows it."""
        return "hdfs-native"

    def normalize_path(self, path: str) -> str:
        """Characters stand for themselves."""
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        """Kind and size of each."""
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> fs.FileInfo:
        try:
            with _os_errors(path):
                return _described(self.client.get_file_info(path))
        except FileNotFoundError:
            return fs.FileInfo(path, fs.FileType.NotFound)

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        """What lies in a folder. Raises FileNotFoundError, NotADirectoryError."""
        folder = selector.base_dir
        kind = self._info(folder).type
        if kind == fs.FileType.File:
            raise NotADirectoryError(folder)
        if kind == fs.FileType.NotFound:
            if selector.allow_not_found:
                return []
            raise FileNotFoundError(folder)
        with _os_errors(folder):
            statuses = self.client.list_status(folder, selector.recursive)
            return [_described(status) for status in statuses]

    def create_dir(self, path: str, recursive: bool) -> None:
        """A folder, which may be there already."""
        with _os_errors(path):
            self.client.mkdirs(path, FOLDERS, recursive)

    def delete_dir(self, path: str) -> None:
        """A folder with all it holds. Raises FileNotFoundError."""
        self._delete(path, recursive=True)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool) -> None:
        """Folders go whole here."""
        raise NotImplementedError("delete_dir_contents")

    def delete_root_dir_contents(self) -> None:
        """Nothing here ever empties a whole file system."""
        raise NotImplementedError("delete_root_dir_contents")

    def delete_file(self, path: str) -> None:
        """A file. Raises FileNotFoundError."""
        self._delete(path, recursive=False)

    def _delete(self, path: str, recursive: bool) -> None:
        with _os_errors(path):
            if not self.client.delete(path, recursive):
                raise FileNotFoundError(path)

    def move(self, src: str, dest: str) -> None:
        """Gives a file another name, in one step in the place of one that has it."""
        with _os_errors(src):
            self.client.rename(src, dest, overwrite=True)

    def copy_file(self, src: str, dest: str) -> None:
        """HDFS has no such call."""
        raise NotImplementedError("copy_file")

    def open_input_file(self, path: str) -> pa.NativeFile:
        """The bytes of a file, to be read in any order. Raises FileNotFoundError."""
        with _os_errors(path):
            stream = self.client.read(path)
            return pa.PythonFile(_Stream(stream, path), mode="r")

    open_input_stream = open_input_file

    # pyarrow hands over metadata, which other stores have.
    def open_output_stream(self, path: str, metadata: object) -> pa.NativeFile:  # noqa: ARG002
        """A file that is written from its beginning, in the place of an older one."""
        from hdfs_native import WriteOptions

        with _os_errors(path):
            stream = self.client.create(path, WriteOptions(overwrite=True))
            return pa.PythonFile(_Stream(stream, path), mode="w")

    def open_append_stream(self, path: str, metadata: object) -> pa.NativeFile:
        """Nothing here is ever added to a file."""
        raise NotImplementedError("open_append_stream")


class _Stream:
    """An open file whose methods raise as the file system's do."""

    def __init__(self, stream: Any, path: str) -> None:
        self._stream, self._path = stream, path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        attribute = getattr(self._stream, name)
        # A context manager is a decorator too: the method raises what the block would.
        return _os_errors(self._path)(attribute) if callable(attribute) else attribute


def _described(status: Any) -> fs.FileInfo:
    """What pyarrow calls the status of a file or folder."""
    if status.isdir:
        return fs.FileInfo(status.path, fs.FileType.Directory)
    modified = status.modification_time * 10**6
    return fs.FileInfo(status.path, fs.FileType.File, size=status.length, mtime_ns=modified)
