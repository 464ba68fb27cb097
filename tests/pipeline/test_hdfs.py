"""What HDFS refuses. The real one is asked in tests/cluster/check_hadoop.py (`make test-hadoop`)."""

from collections.abc import Callable
from typing import Any

import pytest
from pyarrow import fs

from pipeline.hdfs import _Client, file_system

DENIED = r'RPCError("org.apache.hadoop.security.AccessControlException", "Permission denied: user=bob\n\tat org.apache.hadoop.hdfs.Server")'


class Refusing:
    """A client of whose methods each is refused by the server, as hdfs-native tells it."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def refuse(*_: Any, **__: Any) -> None:
            raise RuntimeError(DENIED)

        return refuse


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
    ],
)
def test_a_refusal_is_no_absent_file_and_has_no_stack(ask: Callable[[fs.FileSystem], object]) -> None:
    with pytest.raises(OSError, match="Permission denied: user=bob") as failed:
        ask(fs.PyFileSystem(fs.FSSpecHandler(_Client(Refusing()))))
    assert not isinstance(failed.value, FileNotFoundError)
    assert "Server" not in str(failed.value)


def test_a_stream_is_refused_likewise() -> None:
    class Opening(Refusing):
        def open(self, *_: Any, **__: Any) -> Refusing:
            return Refusing()

    with pytest.raises(OSError, match="Permission denied: user=bob"):
        _Client(Opening()).open("/a", mode="wb").write(b"")


@pytest.mark.parametrize(("scheme", "authority"), [("hdfs", ""), ("viewfs", ""), ("hdfs", "nameservice")])
def test_a_file_system_that_nothing_describes(scheme: str, authority: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HADOOP_CONF_DIR", "HADOOP_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OSError, match=r"No (fs\.defaultFS setting|NameNode hosts) found"):
        file_system(scheme, authority)
