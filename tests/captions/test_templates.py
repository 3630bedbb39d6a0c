"""Captions by template: filled in per combination, missing where a value is."""

import pandas as pd
import pytest

from engine.captions import columns_of, is_template, render
from storage.errors import InputError


def test_columns_are_filled_in() -> None:
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(["B cell", "T cell", None, "B cell"]),
            "tissue": ["blood", "", "blood", " tonsil "],
            "age": [31, 40, 50, 31],
        },
        index=["a", "b", "c", "d"],
    )
    assert is_template("{cell_type}")
    assert not is_template("cell_type")
    found = render("{cell_type} from {tissue}, {age} years", obs)
    assert found.tolist() == ["B cell from blood, 31 years", None, None, "B cell from tonsil, 31 years"]
    assert found.index.tolist() == ["a", "b", "c", "d"]
    assert render("a {{cell}} of {tissue}", obs).tolist()[0] == "a {cell} of blood"


@pytest.mark.parametrize("template", ["{cell_type", "{}", "{cell_type.x!r}", "{age:>5}"])
def test_what_is_no_template_is_refused(template: str) -> None:
    with pytest.raises(InputError, match="caption template"):
        columns_of(template)
