"""Edits as people write them."""

from __future__ import annotations

import pytest

from engine.interpret.steering.edits import Edit, Unit, parse_edits
from storage.errors import InputError


def test_every_op_is_read_and_written_back() -> None:
    text = "4711:+3,88:ablate,5:=2.5,6:*0.5,7:-1e-2"
    edits = parse_edits(text)
    assert edits == (
        Edit(4711, "add", 3.0),
        Edit(88, "ablate"),
        Edit(5, "clamp", 2.5),
        Edit(6, "scale", 0.5),
        Edit(7, "add", -0.01),
    )
    assert ",".join(map(str, edits)) == "4711:+3,88:ablate,5:=2.5,6:*0.5,7:-0.01"


def test_amounts_are_multiples_of_the_unit() -> None:
    assert Edit(4, "add", 3.0).of(4, 2.0).value == 6.0
    assert Edit(4, "scale", 3.0).of(4, 2.0).value == 3.0  # a factor has no unit
    assert Edit(4, "clamp", 1.0).of(9, 0.5, (7,)).token_ids == (7,)


@pytest.mark.parametrize("text", ["", "12", "12:boost", "x:+3", "12:3", "12:+", "12:=", "12:ablate3"])
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="FEATURE:ablate"):
        parse_edits(text)


def test_a_feature_is_edited_once() -> None:
    with pytest.raises(InputError, match="feature 3 is edited twice"):
        parse_edits("3:+1,4:ablate,3:ablate")
    assert len(parse_edits("3:+1,3:ablate", separately=True)) == 2


def test_units() -> None:
    assert Unit.parse("max") == Unit()
    assert Unit.parse("q0.99") == Unit("quantile", 0.99)
    for text in ("q2", "q0", "median", ""):
        with pytest.raises(InputError, match="expected max, absolute, or a quantile"):
            Unit.parse(text)
