"""`captions` from the command line: by template, and on Ray from a language model on loopback."""

import json
from pathlib import Path

import pytest

from engine.captions import CaptionSource
from jobs.captions import main
from storage.cells import CellStore
from tests.captions.language_model import KEY, language_model


def test_by_template(donor_cells: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--cells",
        donor_cells,
        "--template",
        "{cell_type}, {condition}",
        "--output",
        str(tmp_path / "out"),
    ]
    assert main([*flags, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["counts_out"] == {"captions": 10}
    captions = CaptionSource(file=str(tmp_path / "out")).read(CellStore.open(donor_cells), 400)
    assert "B cell, control" in captions.texts
    assert main(flags) == 0
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ([], "--endpoint is missing"),
        (["--endpoint", "http://h/v1", "--columns", "tissue"], "--model is missing"),
        (["--template", "{colour}"], "no obs column 'colour'"),
        (["--template", "{tissue}", "--model", "m"], "--template and --model"),
        (
            ["--endpoint", "http://h/v1", "--model", "m", "--columns", "tissue", "--together", "0"],
            "--together",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(
    donor_cells: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], reason: str
) -> None:
    assert main(["--cells", donor_cells, *flags, "--output", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_by_a_language_model_on_ray(
    donor_cells: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: None
) -> None:
    monkeypatch.setenv("CAPTION_KEY", KEY)
    flags = ["--cells", donor_cells, "--model", "m", "--columns", "cell_type,donor"]
    with language_model() as model:
        asked = [*flags, "--endpoint", model.url, "--key-variable", "CAPTION_KEY"]
        assert main([*asked, "--output", str(tmp_path)]) == 0
    assert set(model.keys) == {f"Bearer {KEY}"}
    captions = CaptionSource(file=str(tmp_path)).read(CellStore.open(donor_cells), 400)
    assert "These are cells: B cell, 101" in captions.texts
    assert KEY not in (tmp_path / "run.json").read_text()
