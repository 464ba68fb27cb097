"""What pyarrow asks of HDFS, against a client that plays one. A real one is asked in
tests/cluster/check_hadoop.py (`make test-hadoop`)."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from pyarrow import fs

from pipeline.storage.files import move, remove_folder, write_text
from pipeline.storage.hdfs import Handler, file_system
from pipeline.storage.locations import Location, location, names

DENIED = (
    r'RPCError("org.apache.hadoop.security.AccessControlException", "Permission denied: '
    r"user=bob, inode=\"/a\"\n\tat "
    r'org.apache.hadoop.hdfs.server.namenode.FSPermissionChecker.check(FSPermissionChecker.java:1)")'
)


@dataclass
class Status:
    """Of a file or folder."""

    path: str
    isdir: bool
    length: int = 0
    modification_time: int = 0


@dataclass
class Client:
    """Files by their paths; what is asked of it is remembered. Each call fails with `error` where
    there is one."""

    files: dict[str, bytes] = field(default_factory=dict)
    error: Exception | None = None
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def get_file_info(self, path: str) -> Status:
        self._fail()
        if path in self.files:
            return Status(path, False, len(self.files[path]))
        if any(name.startswith(f"{path}/") for name in self.files):
            return Status(path, True)
        raise FileNotFoundError(path)

    def list_status(self, path: str, recursive: bool) -> Iterator[Status]:
        assert recursive
        for name, data in sorted(self.files.items()):
            if name.startswith(f"{path}/"):
                yield Status(name, False, len(data))
                self._fail()

    def delete(self, path: str, recursive: bool) -> bool:
        self._fail()
        self.asked.append(("delete", path))
        gone = [
            name
            for name in self.files
            if name == path or (recursive and name.startswith(f"{path}/"))
        ]
        return bool([self.files.pop(name) for name in gone])

    def rename(self, src: str, dst: str, overwrite: bool) -> None:
        self._fail()
        assert overwrite or dst not in self.files
        self.asked.append(("rename", src, dst))
        self.files[dst] = self.files.pop(src)

    def create(self, path: str, _: object) -> "Stream":
        self._fail()
        return Stream(self, path)

    def read(self, path: str) -> None:
        self.get_file_info(path)

    def mkdirs(self, *_: object) -> None:
        self._fail()

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


@dataclass
class Stream:
    """A file that is written."""

    client: Client
    path: str
    closed: bool = False

    def write(self, data: bytes) -> int:
        self.client._fail()
        self.client.files[self.path] = self.client.files.get(self.path, b"") + bytes(data)
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    """What hdfs:// leads to."""
    client = Client()
    monkeypatch.setattr(
        "pipeline.storage.locations._file_system", lambda *_: (fs.PyFileSystem(Handler(client)), "")
    )
    return client


@pytest.fixture
def folder(client: Client) -> Location:  # noqa: ARG001  (it stands behind the URI)
    """A folder with all characters that URIs give a meaning."""
    return location("hdfs://host/run#2?x;y%20 [1]")


def test_characters_stand_for_themselves(client: Client, folder: Location) -> None:
    client.files = {"/run": b"", "/run#1/x": b"", "/run#2?x;y%20 [1]/deep/x": b"1"}
    assert names(folder, recursive=True) == ["deep/x"]
    remove_folder(folder)
    assert client.asked == [("delete", "/run#2?x;y%20 [1]")]
    assert sorted(client.files) == ["/run", "/run#1/x"]


def test_a_renamed_file_takes_the_place_of_an_older_one_in_one_step(
    client: Client, folder: Location
) -> None:
    client.files = {"/run#2?x;y%20 [1]/old": b"old", "/run#2?x;y%20 [1]/new": b"new"}
    move(folder / "new", folder / "old")
    assert client.files == {"/run#2?x;y%20 [1]/old": b"new"}
    write_text(folder / "old", "newer")
    assert client.files == {"/run#2?x;y%20 [1]/old": b"newer"}
    assert [what for what, *_ in client.asked] == ["rename", "rename"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError(DENIED), 'Permission denied: user=bob, inode="/a"'),
        (OSError("Connection refused (os error 111)"), "Connection refused (os error 111)"),
    ],
)
@pytest.mark.parametrize(
    "ask",
    [
        lambda system: system.get_file_info("/a"),
        lambda system: system.get_file_info(fs.FileSelector("/a", allow_not_found=True)),
        lambda system: system.open_input_file("/a"),
        lambda system: system.open_output_stream("/a"),
        lambda system: system.move("/a", "/b"),
        lambda system: system.delete_file("/a"),
        lambda system: system.delete_dir("/a"),
        lambda system: system.create_dir("/a"),
    ],
)
def test_what_the_server_refuses_is_no_absent_file(
    ask: Callable[[fs.FileSystem], Any], error: Exception, message: str
) -> None:
    with pytest.raises(OSError, match=re.escape(message)) as failed:
        ask(fs.PyFileSystem(Handler(Client(error=error))))
    assert not isinstance(failed.value, FileNotFoundError)
    assert str(failed.value) == f"{message} (/a)"


def test_a_file_that_is_refused_while_it_is_written(client: Client) -> None:
    with fs.PyFileSystem(Handler(client)).open_output_stream("/a", buffer_size=0) as file:
        client.error = RuntimeError(DENIED)
        with pytest.raises(OSError, match=r'^Permission denied: user=bob, inode="/a" \(/a\)$'):
            file.write(b"x")
        client.error = None


def test_a_listing_that_breaks_off_is_none(client: Client, folder: Location) -> None:
    client.files = {f"/run#2?x;y%20 [1]/{name}": b"" for name in "ab"}
    listed = names(folder, recursive=True)
    assert listed == ["a", "b"]
    status = client.get_file_info

    def breaking(path: str) -> Status:
        client.error = OSError("Connection reset")
        return status(path) if path in client.files else Status(path, True)

    client.get_file_info = breaking  # type: ignore[method-assign]
    with pytest.raises(OSError, match="Connection reset"):
        names(folder, recursive=True)


@pytest.mark.parametrize(
    ("scheme", "authority", "message"),
    [
        ("hdfs", "", r"No fs\.defaultFS setting found"),
        ("viewfs", "", r"No fs\.defaultFS setting found"),
        ("hdfs", "nameservice", "No NameNode hosts found"),
        ("hdfs", "host:port", "invalid port number|InvalidPort"),
    ],
)
def test_a_file_system_that_nothing_describes(
    scheme: str, authority: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HADOOP_CONF_DIR", "HADOOP_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OSError, match=message):
        file_system(scheme, authority)
