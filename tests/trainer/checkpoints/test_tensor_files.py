"""Tensors written a piece at a time are what the library of the format reads."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.checkpoints import tensor_files
from trainer.checkpoints.tensor_files import TensorFile, write_tensors

WHOLE = torch.arange(60, dtype=torch.float32).view(20, 3)


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_the_library_reads_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    """Also every other row of a tensor, a single number, and no row at all."""
    monkeypatch.setattr(tensor_files, "PIECE_ROWS", piece)
    tensors: dict[str, Tensor] = {
        "rows": WHOLE[1::2],
        "one": torch.tensor(2.5),
        "none": torch.zeros(0, 4),
        "counts": torch.arange(9),
        "exact": torch.linspace(0, 1, 5, dtype=torch.float64),
    }
    path = tmp_path / "x.safetensors"
    written = write_tensors(path, tensors)
    read = load_file(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
    data = path.read_bytes()
    assert written == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    "written_by", [save_file, lambda tensors, path: write_tensors(path, tensors)]
)
def test_rows_are_those_that_the_library_reads(
    tmp_path: Path, written_by: Callable[[dict[str, Tensor], Path], object]
) -> None:
    tensors = {
        "rows": WHOLE,
        "counts": torch.arange(9),
        "exact": torch.linspace(0, 1, 8, dtype=torch.float64).view(2, 2, 2),
    }
    path = tmp_path / "x.safetensors"
    written_by(tensors, path)
    library = safe_open(path, framework="pt")
    for name, tensor in tensors.items():
        for first, stop in ((0, len(tensor)), (1, len(tensor)), (1, 2), (1, 1)):
            rows, wanted = (
                TensorFile(path).rows(name, first, stop),
                library.get_slice(name)[first:stop],
            )
            assert rows.dtype == tensor.dtype
            assert torch.equal(rows, wanted)
    with pytest.raises(KeyError):
        TensorFile(path).rows("absent", 0, 1)


def test_what_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_tensors(tmp_path / "x.safetensors", {"bytes": torch.zeros(3, dtype=torch.uint8)})
    assert list(tmp_path.iterdir()) == []
