import numpy as np
import pytest

from engine.perturbation import labels
from storage.errors import InputError


def test_a_combination_is_its_targets_in_any_order_and_gears_writes_singles_with_the_control() -> None:
    assert labels.targets("A+ctrl", "ctrl") == ("A",)
    assert labels.targets("B+A", "non-targeting") == ("A", "B")
    assert labels.targets("non-targeting", "non-targeting") == ()
    assert labels.canonical(np.array(["ctrl", "A+ctrl", "B+A"], dtype=object), "ctrl").tolist() == [
        "ctrl",
        "A",
        "A+B",
    ]


def test_columns_that_are_not_clear_are_refused_by_name() -> None:
    assert labels.perturbation_column("f", ["condition", "n"], None) == "condition"
    with pytest.raises(InputError, match="target_gene and condition"):
        labels.perturbation_column("f", ["condition", "target_gene"], None)
    with pytest.raises(InputError, match="none of the columns"):
        labels.perturbation_column("f", ["guide"], None)
    with pytest.raises(InputError, match="no column 'guides'"):
        labels.perturbation_column("f", ["guide"], "guides")


def test_a_screen_without_control_cells_is_refused() -> None:
    assert labels.control_label("f", ["ctrl", "A"], None) == "ctrl"
    with pytest.raises(InputError, match=r"'non-targeting'.*--control"):
        labels.control_label("f", ["A", "B"], "non-targeting")
    with pytest.raises(InputError, match="control and ctrl"):
        labels.control_label("f", ["ctrl", "control"], None)


@pytest.mark.parametrize(("contract", "expected"), [("gears", "A+ctrl"), ("cell-eval", "A")])
def test_labels_are_written_as_the_contract_says(contract: str, expected: str) -> None:
    assert labels.written(("A",), labels.CONTRACTS[contract]) == expected
