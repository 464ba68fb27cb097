"""The relational space: its start, and what the two forms of the loss can learn."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.runs import build, one_step
from tests.trainer.shards import Corpus, write_shards
from trainer.model import M2GRL, StepResult
from trainer.objective import relations
from trainer.objective.relations import RelationParameters, relational
from trainer.objective.weighting import LOG_VARIANCE

ITEMS, VALUES, DIMENSION = 40, 4, 16
RELATION = "item_category"


def test_start_values() -> None:
    dense = RelationParameters("r", DIMENSION, 10, seed=1).start()
    matrix = dense["r.W"].double()
    assert torch.allclose(matrix @ matrix.T, torch.eye(DIMENSION, dtype=torch.float64), atol=1e-6)
    assert float(dense["r.t"]) == pytest.approx(4 / math.sqrt(DIMENSION))
    # Vectors near 0 have r . r = d / 4 and score at 1 against k negatives.
    r = relational(torch.zeros(2, DIMENSION), dense["r.W"])
    score = torch.sigmoid(dense["r.t"] * (r[0] @ r[1]) + dense["r.b"])
    assert float(score) == pytest.approx(1 / 11, rel=1e-5)
    assert not torch.allclose(
        matrix, RelationParameters("q", DIMENSION, 10, seed=1).start()["q.W"].double()
    )


def test_both_sides_go_through_the_same_matrix() -> None:
    matrix, e = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([[math.log(3), 0.0]])
    assert torch.allclose(relational(e, matrix), torch.tensor([[0.5, 0.9]]))


def test_the_scale_stays_positive() -> None:
    dense = {"r.t": torch.tensor(-0.2), "r.b": torch.tensor(-0.2)}
    RelationParameters("r", DIMENSION, 10, seed=1).project(dense)
    assert float(dense["r.t"]) == pytest.approx(relations.SMALLEST_SCALE)
    assert float(dense["r.b"]) == pytest.approx(-0.2)


def trained(folder: Path, steps: int, **settings: Any) -> tuple[M2GRL, list[StepResult]]:
    """The relation alone is trained: item i has the value i mod VALUES."""
    write_shards(
        folder,
        Corpus(
            {"item": [list(range(ITEMS))], "category": [list(range(VALUES)) * 2]},
            {"item": ITEMS, "category": VALUES},
            {RELATION: [[item % VALUES] for item in range(ITEMS)]},
        ),
    )
    settings |= {
        "dimension": DIMENSION,
        "mixing": "repeat",
        "batch_pairs": 80,
        "optimiser": "adam",
        "learning_rate": 0.05,
    }
    model, tasks = build(folder, **settings)
    return model, [one_step(model, tasks, number, only=RELATION) for number in range(steps)]


def dots(model: M2GRL) -> tuple[Tensor, Tensor]:
    """(r_a . r_b of the linked pairs, of the others)."""
    matrix, sides = model.dense[f"{RELATION}.W"], []
    for view in ("item", "category"):
        table = model.tables.keys.table(view, "input")
        sides.append(
            relational(model.tables.values[table.offset : table.offset + table.rows], matrix)
        )
    product = sides[0] @ sides[1].T
    linked = torch.arange(ITEMS)[:, None] % VALUES == torch.arange(VALUES)
    return product[linked], product[~linked]


def test_with_ten_negatives_the_printed_form_learns_nothing(tmp_path: Path) -> None:
    """Ten pushes outweigh one pull: every r goes to 0."""
    model, results = trained(tmp_path, 200, alignment="printed", negatives=10)
    assert results[-1].losses[-1] == pytest.approx(0, abs=0.05)
    assert max(float(part.max()) for part in dots(model)) < 0.05


@pytest.mark.parametrize("step", ["fast", "exact"])
def test_an_unrelated_pair_reaches_a_low_score(tmp_path: Path, step: str) -> None:
    model, _ = trained(tmp_path, 150, step=step)
    related, unrelated = (
        torch.sigmoid(model.dense[f"{RELATION}.t"] * part + model.dense[f"{RELATION}.b"])
        for part in dots(model)
    )
    assert unrelated.max() < 0.1
    assert related.min() > 0.5


def test_the_printed_form_turns_negative_and_drives_its_sigma2_to_the_floor(tmp_path: Path) -> None:
    """It is linear in r_a . r_b: whichever of the pulls and the pushes weighs more wins for
    good."""
    model, results = trained(
        tmp_path, 300, alignment="printed", negatives=1, relation_weight_cap=math.inf
    )
    related, unrelated = dots(model)
    assert results[-1].losses[-1] < -1
    assert float(torch.exp(model.dense[LOG_VARIANCE][-1])) == pytest.approx(
        model.train.sigma2_floor
    )
    assert results[-1].weights[-1] == pytest.approx(1 / model.train.sigma2_floor)
    # One negative, masked where it is linked, is outweighed by the positive: every r goes to 1, of
    # related pairs or not.
    assert min(float(part.min()) for part in (related, unrelated)) > 0.99 * DIMENSION
    assert float(model.dense[f"{RELATION}.t"]) == pytest.approx(4 / math.sqrt(DIMENSION))
