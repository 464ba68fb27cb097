"""Which settings a run may go on with other values of, and what stands for the others."""

from pathlib import Path
from typing import Annotated, Any, get_origin

import pytest

from pipeline.contracts.sealed import MANIFEST
from trainer.config import Train
from trainer.training import run_identity

FREE = {
    "kernels",
    "device",
    "exchange",
    "read_ahead",
    "log_seconds",
    "log_steps",
    "checkpoint_epochs",
    "keep_checkpoints",
    "validation_epochs",
    "best_by",
    "early_stop",
    "learning_rate",
    "dense_learning_rate",
    "clip_norm",
}


def test_what_is_marked_at_the_fields_may_change() -> None:
    assert Train().may_change == FREE | {"epochs"}


def test_with_decay_the_number_of_epochs_is_part_of_the_run() -> None:
    assert Train(decay="linear").may_change == FREE


@pytest.mark.parametrize("name", sorted(FREE | {"epochs"}))
def test_a_mark_is_no_part_of_what_a_field_says_of_itself(name: str) -> None:
    """--help and the checks of a value see the plain type."""
    assert get_origin(Train.model_fields[name].annotation) is not Annotated


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "c1302a9f23360a7f194b3d7759825314d34ae9d0c11a7c7e114c9cf9a80a82b1"),
        (
            {"decay": "linear", "epochs": 3},
            "e50b2392b36c91fbcfbdb989a7d1230282dbed36150a476b5f61c558067a4f71",
        ),
        (
            {"epochs": 3, "kernels": "torch", "log_steps": 7, "learning_rate": 0.1},
            "c1302a9f23360a7f194b3d7759825314d34ae9d0c11a7c7e114c9cf9a80a82b1",
        ),
    ],
)
def test_checkpoints_of_before_are_of_the_same_run(
    tmp_path: Path, settings: dict[str, Any], expected: str
) -> None:
    """A new setting changes these, and says so in the changelog: no older checkpoint goes on."""
    (tmp_path / MANIFEST).write_text("{}", encoding="utf-8")
    assert run_identity(tmp_path, Train(**settings), 3)["configuration"] == expected
