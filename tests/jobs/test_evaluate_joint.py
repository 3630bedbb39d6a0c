"""`evaluate-joint` from the command line."""

import json
from pathlib import Path

import pytest

from jobs.evaluate_joint import main
from tests.retrieval.blood import Blood, blood, small_counts

__all__ = ["blood", "small_counts"]


def flags(blood: Blood, output: Path) -> list[str]:
    given = ["--cells", blood.store, "--joint", blood.joint, "--label", "cell_type", "--caption", "caption"]
    return [*given, "--embeddings", blood.embeddings, "--output", str(output), "--draws", "2"]


def test_the_report_card_is_written_once(
    blood: Blood, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = tmp_path / "sets.gmt"
    sets.write_text(
        "monocytes\t\tLYZ\tS100A8\tS100A9\tCST3\tFTL\nB cells\t\tCD79A\tCD79B\tMS4A1\tCD74\tHLA-DRA\n"
    )
    output = tmp_path / "card"
    command = [*flags(blood, output), "--sample", "120", "--terms", str(sets), "--batch", "donor"]
    assert main([*command, "--reference", blood.store, "--templates", "a sample of {}|{}"]) == 0
    found = json.loads((output / "metrics.json").read_text())
    assert found["protocol"]["n_cells"] <= 120
    assert found["protocol"]["split"].startswith("baselines learn from 120 labelled cells")
    assert found["gene_sets"]["libraries"]["sets"]["n_terms"] == 2
    assert "asw_batch" in found["integration"]["joint"]
    record = json.loads((output / "run.json").read_text())
    assert record["facts"]["top_1"] == found["zero_shot"]["top_1"]
    assert (output / "index.html").read_text().startswith("<!doctype html>")
    assert main([*command, "--reference", blood.store, "--templates", "a sample of {}|{}"]) == 0
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--label", "colour"], "--label colour"),
        (["--caption", "colour"], "--caption colour"),
        (["--draws", "-1"], "--draws"),
        (["--labels", "liver,lung"], "at least"),
    ],
)
def test_bad_input_is_refused(
    blood: Blood, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    assert main([*flags(blood, tmp_path / "card"), *more]) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
