"""Learning rates: ends, joints and shapes."""

import math
from typing import Any

import pytest

from engine.training.options import TrainingOptions
from engine.training.schedule import learning_rate


def rates(**changes: Any) -> list[float]:
    given = {"steps": 11, "batch": 1, "learning_rate": 1.0, **changes}
    options = TrainingOptions(**given)
    return [learning_rate(step, options) for step in range(options.steps)]


def test_warmup_is_linear_and_starts_moving() -> None:
    assert rates(warmup_steps=4, decay="constant")[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_cosine_falls_from_peak_to_the_final_fraction() -> None:
    curve = rates(decay="cosine", final_fraction=0.1)
    assert curve[0] == 1.0
    assert curve[5] == pytest.approx(0.55)
    assert curve[-1] == pytest.approx(0.1)
    assert curve == sorted(curve, reverse=True)


def test_linear_decay_of_the_last_part() -> None:
    curve = rates(decay="linear", decay_from=0.5)
    assert curve[:6] == [1.0] * 6
    assert curve[-1] == 0.0
    assert curve[8] == pytest.approx(0.5)


def test_decay_begins_after_a_warmup_that_outlasts_its_start() -> None:
    curve = rates(decay="linear", warmup_steps=5)
    assert max(curve) == 1.0
    assert curve[4] == curve[5] == 1.0


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant"])
def test_one_step_runs_have_a_finite_rate(decay: str) -> None:
    assert rates(steps=1, decay=decay) == [1.0]


def test_rates_are_finite_beyond_the_end() -> None:
    options = TrainingOptions(steps=3, batch=1)
    assert math.isfinite(learning_rate(100, options))
