"""JSON records: what is written is read, and is the same when it is written again."""

import json
from pathlib import Path

import pytest

from pipeline.contracts.scores import Evaluation
from pipeline.contracts.statistics import Statistics
from pipeline.contracts.training import (
    EndRecord,
    StepRecord,
    TrainingLine,
    ValidationRecord,
    parse_line,
)

FIGURE = {"value": 0.25, "low": 0.125, "high": None}
STATISTICS = {
    "name": "shop",
    "seed": 1,
    "seconds": {"events": 5.9},
    "funnel": {
        "raw rows": 9,
        "rejected": {"no item_id": 1},
        "flaws": {},
        "app events": 0,
        "dropped": {"duplicate": 2},
        "clicks": 6,
        "events with a known stay": 0,
        "item tables": {},
    },
    "items whose value changed": {},
    "nodes": {"item": 3},
    "nodes left out": {"item": {"below minimum_count": 1, "beyond top": 0}},
    "edges": {"item": {"distinct": 2, "weight": 3}},
    "links": {},
    "pairs": {"item": 8},
    "parts": {
        "train": {
            "clicks": 6,
            "users": 2,
            "sessions": 3,
            "first": "2024-01-01",
            "last": "2024-01-02",
        }
    },
    "sequences": {
        "item": {
            "without a value": 0,
            "below minimum_count": 1,
            "beyond top": 0,
            "in vocabulary": 5,
            "same node as before": 1,
            "alone in session": 0,
            "in sequences": 4,
        }
    },
    "histograms": {
        "stay": {
            "unit": "seconds",
            "of": "clicks",
            "count": 3,
            "bins": [[0, 1, 2], [1, 2, 1]],
            "unusual": [{"value": 1.0, "count": 2, "times": None}],
        }
    },
}
EVALUATION = {
    "project": "shop",
    "seed": 1,
    "code_version": "v",
    "config": {"k": 50, "scores": ["cosine"]},
    "config_hash": "h",
    "inputs": {"shards": "s"},
    "given": {},
    "k": 50,
    "cases": {"users": 2, "next": 3, "next_rare": 1, "next_never_seen": 0, "left_out": 1},
    "models": {
        "M2GRL cosine": {
            **dict.fromkeys(("hit_rate", "recall", "precision", "f1"), FIGURE),
            **dict.fromkeys(("next_all", "next_rare"), FIGURE),
            "ceiling": 1.0,
            "coverage": None,
            "top1_share": 0.5,
            "difference": {"popularity": {"hit_rate": FIGURE}},
            "seconds": 0.5,
        }
    },
}
STEP = StepRecord(
    step=20,
    epoch=0.5,
    losses={"item": 7.25, "shop": None},
    sigma2={"item": 1.0, "shop": None},
    weights={"item": 1.0, "shop": 0.0},
    pairs={"item": 40, "shop": 0},
    pairs_per_s=10.0,
    phases={"read": 0.25},
    wait_exchange=0.0,
    length_count_correlation=None,
    memory_bytes=[1024],
)
LINES = [
    STEP,
    ValidationRecord(step=20, epoch=0.5, hit_rate={"cosine": 0.25}, k=50, cases=9),
    EndRecord(
        step=40,
        done=True,
        length_count_correlation=-0.5,
        config={"epochs": 1},
        seed=1,
        ranks=2,
        code_version="v",
    ),
]


@pytest.mark.parametrize(("kind", "record"), [(Statistics, STATISTICS), (Evaluation, EVALUATION)])
def test_a_record_is_written_as_it_was_read(
    tmp_path: Path, kind: type[Statistics | Evaluation], record: dict[str, object]
) -> None:
    path = tmp_path / "record.json"
    kind.model_validate(record).write(path)
    assert path.read_text() == json.dumps(record, indent=2) + "\n"


def test_an_evaluation_holds_no_number_that_json_has_not(tmp_path: Path) -> None:
    models = EVALUATION["models"]
    assert isinstance(models, dict)
    scores = {**models["M2GRL cosine"], "seconds": float("nan")}
    broken = Evaluation.model_validate({**EVALUATION, "models": {"M2GRL cosine": scores}})
    with pytest.raises(ValueError, match="not JSON compliant"):
        broken.write(tmp_path / "record.json")
    assert not (tmp_path / "record.json").exists()


@pytest.mark.parametrize("record", LINES, ids=lambda record: type(record).__name__)
def test_a_line_of_a_training_is_known_by_its_keys(record: TrainingLine) -> None:
    line = record.line()
    assert line.endswith("}\n")
    assert line.count("\n") == 1
    assert parse_line(line) == record


def test_steps_took_as_long_as_their_pairs() -> None:
    assert STEP.seconds == 4.0
    assert STEP.model_copy(update={"pairs_per_s": 0.0}).seconds == 0.0
