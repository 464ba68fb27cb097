"""Compiling a kernel for this machine and for the sizes of a run, once: a second or less, then from
the cache.

Sizes known to the compiler let it keep whole rows in registers. Nothing but the standard library of
C++ is needed, and no header of PyTorch: functions take pointers and are called by ctypes, which
lets other threads of Python work meanwhile.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from trainer.config import TrainConfigError

SOURCES = Path(__file__).parent
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-shared",
    "-fPIC",
)
COMPILERS = ("c++", "g++", "clang++")
"""Tried in this order, after what CXX names."""
Kernel = TypeVar("Kernel")


class KernelError(Exception):
    """A kernel cannot be compiled on this machine; the message says why."""


@cache
def load_library(name: str, **sizes: int) -> ctypes.CDLL:
    """The library of `<name>.cpp`, compiled with the sizes as macros. Raises KernelError."""
    source = SOURCES / f"{name}.cpp"
    compiler = find_compiler()
    macros = [f"-D{macro.upper()}={size}" for macro, size in sorted(sizes.items())]
    command = [compiler, *FLAGS, *macros]
    # All that decides what comes out: whatever differs in one of them is another file.
    inputs = [*command, _version(compiler), _processor(), _sources()]
    key = hashlib.sha256("\0".join(inputs).encode()).hexdigest()
    path = _cache() / f"{name}-{key[:24]}.so"
    if not path.exists():
        _compile([*command, str(source)], path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelError(f"{path} cannot be loaded: {error}; remove it") from None


def find_compiler() -> str:
    """The C++ compiler: what CXX names, else the first of COMPILERS that is there. Raises
    KernelError."""
    named = os.environ.get("CXX")
    for name in [named] if named else COMPILERS:
        path = shutil.which(name)
        if path is not None:
            return path
    if named:
        raise KernelError(f"CXX names {named}, which is not there")
    raise KernelError(f"none of {', '.join(COMPILERS)} is there")


def _sources() -> str:
    """All of them: one may include another."""
    return "".join(path.read_text(encoding="utf-8") for path in sorted(SOURCES.glob("*.[ch]*")))


def _compile(command: list[str], path: Path) -> None:
    """Into a file of its own first: ranks that compile at the same time each put a whole library in
    the same place."""
    handle, part = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    try:
        done = subprocess.run([*command, "-o", part], capture_output=True, text=True, check=False)
        if done.returncode:
            compiler, *_ = command
            message = done.stderr.strip()[:2000]
            raise KernelError(f"{compiler} ends with status {done.returncode}: {message}")
        Path(part).replace(path)
    finally:
        Path(part).unlink(missing_ok=True)


def _cache() -> Path:
    """A folder of this user alone: what lies in it is run."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "m2grl" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return _folder_of_process()


@cache
def _folder_of_process() -> Path:
    return Path(tempfile.mkdtemp(prefix="m2grl-kernels-"))


@cache
def _version(compiler: str) -> str:
    return subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=False
    ).stdout


@cache
def _processor() -> str:
    """What -march=native looks at: a folder of the user may be shared by machines of several
    kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return os.uname().machine
    # What a core can do; its clock, which the file tells too, changes all the time.
    kinds = ("flags", "Features", "model name", "CPU part")
    distinct = {line for line in lines if line.split("\t")[0] in kinds}
    return "\n".join(sorted(distinct))


def if_wanted(kernels: str, make: Callable[[], Kernel]) -> Kernel | None:
    """What `make` makes where `train.kernels` asks for it; none where PyTorch is to compute. Raises
    TrainConfigError."""
    if kernels == "torch":
        return None
    try:
        return make()
    except KernelError as error:
        if kernels == "auto":
            return None
        raise TrainConfigError(f'train.kernels = "{kernels}": {error}') from None


def obstacle() -> str | None:
    """Why nothing can be compiled here; none: something can."""
    try:
        load_library("tables", dimension=1)
    except KernelError as error:
        return str(error)
    return None


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    """Where the numbers of a contiguous tensor lie."""
    assert tensor.is_contiguous(), tensor.shape
    return ctypes.c_void_p(tensor.data_ptr())
