"""What measured HitRates decide."""

import pytest

from trainer.monitoring.early_stopping import History, Validated, best_measurement, ends


def history(*rates: float, cosine: tuple[float, ...] | None = None) -> History:
    """Measurements after steps 10, 20, ...; the conditional ones, and by default the cosine ones,
    are `rates`."""
    pairs = zip(rates, cosine or rates, strict=True)
    return tuple(
        Validated(
            step=10 * number, hit_rate={"cosine": other, "conditional": rate}, k=50, cases=100
        )
        for number, (rate, other) in enumerate(pairs, 1)
    )


def test_the_best_is_the_first_of_the_highest() -> None:
    found = best_measurement(history(0.1, 0.3, 0.2, 0.3), "conditional")
    assert found is not None
    assert found.step == 20
    assert best_measurement((), "conditional") is None


def test_each_score_has_a_best_of_its_own() -> None:
    measured = history(0.1, 0.3, 0.2, cosine=(0.1, 0.2, 0.4))
    steps = {
        score: found.step
        for score in ("cosine", "conditional")
        if (found := best_measurement(measured, score))
    }
    assert steps == {"cosine": 30, "conditional": 20}


@pytest.mark.parametrize(
    ("rates", "patience", "after"),
    [
        ((0.1, 0.3, 0.2, 0.2, 0.2), 1, 3),
        ((0.1, 0.3, 0.2, 0.2, 0.2), 2, 4),
        ((0.1, 0.3, 0.2, 0.4, 0.2, 0.1), 2, 6),
        ((0.3, 0.3, 0.3), 2, 3),  # as good is no better
        ((0.1, 0.2, 0.3), 1, None),
        ((0.3, 0.2, 0.1), None, None),
    ],
)
def test_training_ends_after_so_many_measurements_without_a_better_one(
    rates: tuple[float, ...], patience: int | None, after: int | None
) -> None:
    measured = history(*rates)
    ended = [ends(measured[:number], "conditional", patience) for number in range(len(rates) + 1)]
    assert (ended.index(True) if any(ended) else None) == after


def test_it_goes_by_the_score_that_was_asked_for() -> None:
    measured = history(0.1, 0.3, 0.2, cosine=(0.1, 0.2, 0.3))
    assert ends(measured, "conditional", 1)
    assert not ends(measured, "cosine", 1)
