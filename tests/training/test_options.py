"""Training options: what cannot be meant is refused by name; what only moves work is no lineage."""

from typing import Any

import pytest

from engine.training.options import TrainingOptions
from storage.errors import InputError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 9, "workers": 2}, "multiple of 2"),
        ({"steps": 0}, "steps is 0"),
        ({"zero": 4}, "0, 1, 2 and 3"),
        ({"learning_rate": float("nan")}, "learning rate"),
        ({"warmup_steps": 12}, "warm-up"),
        ({"decay_from": 1.0}, "decay-from"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingOptions(**{"steps": 12, "batch": 8, **changes})


def test_where_and_how_often_is_no_lineage() -> None:
    one = TrainingOptions(steps=12, batch=8)
    other = TrainingOptions(steps=12, batch=8, workers=4, zero=3, accumulation=2, keep=9, checkpoint_every=1)
    assert one.lineage() == other.lineage()
    assert one.lineage() != TrainingOptions(steps=12, batch=8, precision="bf16").lineage()
