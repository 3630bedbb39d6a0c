from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.perturbation import labels
from engine.perturbation.drugs import Drugs
from storage.errors import InputError


def test_fingerprints_and_embeddings_are_as_long_and_survive_their_file(tmp_path: Path) -> None:
    (tmp_path / "bits.csv").write_text("drug,fingerprint\naspirin,0110\nsalt,0001\n")
    bits = Drugs.read(str(tmp_path / "bits.csv"))
    assert bits.vectors["aspirin"].tolist() == pytest.approx([0, 2**0.5, 2**0.5, 0])
    table = pd.DataFrame({"drug": ["sugar"], "a": [3.0], "b": [0.0], "c": [4], "d": [0.0]})
    table.to_parquet(tmp_path / "numbers.parquet")
    both = bits.and_those_of(str(tmp_path / "numbers.parquet"))
    assert both.dim == 4
    assert both.vectors["sugar"].tolist() == pytest.approx([1.2, 0, 1.6, 0])
    both.save(tmp_path / "drugs.safetensors")
    again = Drugs.load(tmp_path / "drugs.safetensors")
    np.testing.assert_allclose(again.of([("A", "sugar"), ("A",)]), [[1.2, 0, 1.6, 0], [0] * 4], rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name,a\nx,1\n", "no column 'drug'"),
        ("drug,fingerprint\nx,01\ny,012\n", "the fingerprint of y"),
        ("drug,a\nx,1\nx,2\n", "x has two rows"),
        ("drug,a,b\nx,1,2\ny,0,0\n", "vector of y"),
        ("drug,a\nx,tall\n", "column a holds no numbers"),
    ],
)
def test_what_is_no_table_of_drugs_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "drugs.csv").write_text(content)
    with pytest.raises(InputError, match=said):
        Drugs.read(str(tmp_path / "drugs.csv"))


def test_two_drugs_at_once_and_drugs_called_as_genes_are_refused() -> None:
    drugs = Drugs({"x": np.ones(2), "y": np.ones(2)})
    with pytest.raises(InputError, match="two drugs at once"):
        drugs.of([("x", "y")])
    with pytest.raises(InputError, match="x names a gene"):
        drugs.require_apart(["x", "A"], "the screen")


def test_a_dose_is_part_of_a_label_and_not_of_a_name() -> None:
    assert labels.targets("B+drug@0.10", "ctrl") == ("B", "drug")
    assert labels.parts("drug@1e-3+B", "ctrl") == ("B", "drug@1e-3")
    assert labels.dose("B+drug@0.10") == 0.1
    assert labels.dose("drug") == 1
    assert labels.targets("HLA@", "ctrl") == ("HLA@",)
    named = np.array(["drug", "ctrl", "A"], dtype=object)
    found = labels.with_doses("x", named, np.array([0.5, 0.0, np.nan]), "ctrl")
    assert found.tolist() == ["drug@0.5", "ctrl", "A"]
    with pytest.raises(InputError, match="0 or more"):
        labels.with_doses("x", named, np.array([-1.0, 0, 0]), "ctrl")
