"""The list of steps: what each takes is there, and a rebuild reads what another run made."""

from dataclasses import dataclass

import pytest

from pipeline.runs.ingest import Delivery
from pipeline.runs.nodes import ItemTables
from pipeline.runs.pipeline import Pipeline
from pipeline.runs.preprocess import STEPS
from pipeline.runs.step import PipelineStep, Seconds, Values, advance, gives, make_all, takes


@dataclass(frozen=True)
class Number:
    value: int


@dataclass(frozen=True)
class Text:
    value: str


def doubled(number: Number) -> Number:
    return Number(2 * number.value)


def written(number: Number, seconds: Seconds) -> Text:
    return Text(f"{number.value} after {', '.join(seconds.of_steps)}")


def test_each_step_takes_what_steps_before_it_give() -> None:
    there: set[type] = {Pipeline, Delivery, ItemTables, Seconds}
    for step in STEPS:
        assert set(takes(step.make).values()) <= there, step.name
        there.add(gives(step.make))


def test_what_is_read_stands_for_what_is_made_and_needs_no_log() -> None:
    there: set[type] = {Pipeline}
    for step in STEPS[:5]:
        function = step.read or step.make
        assert set(takes(function).values()) <= there, step.name
        assert gives(function) == gives(step.make)
        there.add(gives(function))


def test_steps_are_numbered_and_timed(capsys: pytest.CaptureFixture[str]) -> None:
    steps = (PipelineStep("double", doubled), PipelineStep("write", written))
    values = make_all(steps, {Number: Number(21)}, began=0.0)
    assert values[Text] == Text("42 after double")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "[1/2] double ...",
        "[1/2] double",
        "[2/2] write ...",
        "[2/2] write",
    ]
    assert list(values[Seconds].of_steps) == ["double", "write"]


def test_values_are_not_changed() -> None:
    values: Values = {Number: Number(1)}
    assert advance(doubled, values) == {Number: Number(2)}
    assert values == {Number: Number(1)}
