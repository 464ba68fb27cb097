"""Compiling the kernels: once for a machine and its sizes, and clear words or PyTorch where that
cannot be done."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.config import TrainConfigError
from trainer.kernels import build
from trainer.kernels.build import KernelError, if_wanted, load_library


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_library.cache_clear()
    yield tmp_path / "m2grl" / "kernels"
    load_library.cache_clear()


def test_a_kernel_is_compiled_once_for_its_sizes(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_library("tables", dimension=3)
    load_library("tables", dimension=4)
    assert len(list(cache.iterdir())) == 2
    load_library.cache_clear()
    monkeypatch.setattr(build, "_compile", lambda *_: pytest.fail("compiled again"))
    load_library("tables", dimension=3)


def test_a_compiler_that_is_not_there_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(KernelError, match="CXX names no-such-compiler, which is not there"):
        load_library("tables", dimension=3)
    assert build.obstacle() == "CXX names no-such-compiler, which is not there"
    assert if_wanted("auto", lambda: load_library("tables", dimension=3)) is None
    with pytest.raises(
        TrainConfigError, match=r'train\.kernels = "compiled": CXX names no-such-compiler'
    ):
        if_wanted("compiled", lambda: load_library("tables", dimension=3))
    assert not cache.exists()


def test_what_the_compiler_refuses_is_shown_and_leaves_nothing(cache: Path) -> None:
    with pytest.raises(KernelError, match=r"(?s)status 1: .*DIMENSION"):
        load_library("tables")
    assert list(cache.iterdir()) == []


def test_pytorch_is_taken_where_it_is_asked_for() -> None:
    assert if_wanted("torch", lambda: pytest.fail("compiled")) is None


def test_a_cache_that_cannot_be_written_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/no-such-folder")
    load_library.cache_clear()
    assert load_library("tables", dimension=3).adagrad
    load_library.cache_clear()
