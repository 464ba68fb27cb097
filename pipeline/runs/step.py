"""A step of a run: a name that is printed, and functions from values to a value.

A function's parameters say by their types which values it takes, its result which it gives. So a
list of steps is an order, and what is read instead of made is a choice at each step.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

Values = Mapping[type, Any]
"""Type -> the one value of it that there is so far."""


@dataclass(frozen=True)
class PipelineStep:
    """One entry of the list."""

    name: str
    make: Callable[..., Any]
    """Writes what the step is for."""
    read: Callable[..., Any] | None = None
    """Gives the same value from the tables that an earlier run wrote. None: it is not kept there
    and has to be made again."""


@dataclass(frozen=True)
class Seconds:
    """How long each step took that is done."""

    of_steps: Mapping[str, float]


def takes(function: Callable[..., Any]) -> dict[str, type]:
    """Parameter -> type of the value it takes."""
    types = get_type_hints(function)
    types.pop("return")
    return types


def gives(function: Callable[..., Any]) -> type:
    """Type of the value that a function returns."""
    type_: type = get_type_hints(function)["return"]
    return type_


def advance(function: Callable[..., Any], values: Values) -> Values:
    """The values, and what the function gives of them."""
    arguments = {name: values[type_] for name, type_ in takes(function).items()}
    return {**values, gives(function): function(**arguments)}


def make_all(steps: Sequence[PipelineStep], values: Values, began: float) -> Values:
    """Makes one step after the other; says which begins, and how long it took.

    `began`: of the run, by `time.perf_counter`. Steps may take `Seconds` of the steps before them.
    """
    values = {**values, Seconds: Seconds({})}
    for number, step in enumerate(steps, start=1):
        title = f"[{number}/{len(steps)}] {step.name}"
        print(f"{title} ...", flush=True)
        start = time.perf_counter()
        values = advance(step.make, values)
        now = time.perf_counter()
        print(f"{title}: {now - start:.1f} s ({now - began:.0f} s in all)", flush=True)
        earlier: Seconds = values[Seconds]
        seconds = {**earlier.of_steps, step.name: round(now - start, 1)}
        values = {**values, Seconds: Seconds(seconds)}
    return values
