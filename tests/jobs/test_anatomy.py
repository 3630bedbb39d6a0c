"""The anatomy of a job: flags, YAML defaults, exit codes, run.json."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from jobs.anatomy import JobOptions, Outcome, ProgressLine, comma_separated, launch, parse
from jobs.anatomy.log_lines import job_id
from storage.errors import InputError


@dataclass(kw_only=True)
class Options(JobOptions):
    files: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Input files."""
    width: int = 4
    """Some width."""
    pool: str = "cls"
    """Comma-separated."""
    fast: bool = False
    """A switch."""


def run(options: Options) -> Outcome:
    if options.width < 0:
        raise InputError(f"--width is {options.width}; it must not be negative.")
    if options.width == 13:
        raise RuntimeError("thirteen")
    return Outcome(
        lineage="abc", counts_in={"files": len(options.files)}, counts_out={"cells": options.width}
    )


def run_nothing(options: Options) -> Outcome:
    return Outcome(did_work=False)


def test_flags_and_positional() -> None:
    options = parse("t", Options, ["a.h5ad", "b.h5ad", "--width", "7", "--fast"])
    assert options.files == ("a.h5ad", "b.h5ad")
    assert (options.width, options.fast, options.seed) == (7, True, 0)


def test_yaml_gives_defaults_and_the_command_line_wins(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("width: 9\npool: mean\nfast: true\nmax-cells: 5\nfiles: [x.h5ad]\n")
    options = parse("t", Options, ["--config", str(config), "--pool=cls", "--no-fast"])
    assert (options.width, options.pool, options.fast, options.max_cells) == (9, "cls", False, 5)
    assert options.files == ("x.h5ad",)
    assert parse("t", Options, ["y.h5ad", "--config", str(config)]).files == ("y.h5ad",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("widht: 3\n", "no such flag: widht"),
        ("width: 1\nwidth: 2\n", "given twice"),
        ("[1]\n", "expected a mapping"),
    ],
)
def test_yaml_is_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(text)
    assert launch("t", Options, run, ["--config", str(config)]) == 2
    assert said in capsys.readouterr().err


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert launch("t", Options, run, ["--width", "-1", "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "must not be negative" in error
    assert launch("t", Options, run, ["--width", "13", "--output", str(output)]) == 1
    assert not output.exists()
    with pytest.raises(SystemExit) as usage:
        launch("t", Options, run, ["--no-such-flag"])
    assert usage.value.code == 2


def test_run_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert launch("t", Options, run, ["a.h5ad", "--output", str(output), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    written = json.loads((output / "run.json").read_text())
    assert printed == written
    assert written["job"] == "t"
    assert written["options"]["width"] == 4
    assert written["counts_in"] == {"files": 1}
    assert written["counts_out"] == {"cells": 4}
    assert written["lineage"] == "abc"
    assert written["versions"]["torch"].startswith("2.13.0")
    assert written["wall_seconds"] >= 0
    assert written["peak_memory_bytes"]["driver"] > 1_000_000


def test_a_finished_job_says_so_and_keeps_its_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    launch("t", Options, run, ["--output", str(output)])
    before = (output / "run.json").read_bytes()
    capsys.readouterr()
    assert launch("t", Options, run_nothing, ["--output", str(output), "--json"]) == 0
    captured = capsys.readouterr()
    assert "already complete" in captured.err
    assert json.loads(captured.out)["counts_out"] == {"cells": 4}
    assert (output / "run.json").read_bytes() == before


def test_comma_separated() -> None:
    assert comma_separated("cls, mean,,gene ") == ("cls", "mean", "gene")


def test_log_of_json_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = {"runtime_env": {}, "metadata": {"job_submission_id": "raysubmit_7"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(submitted))
    output = str(tmp_path / "out")

    def run_and_tell(options: Options) -> Outcome:
        print("warning: few cells", file=sys.stderr)
        ProgressLine("t")(3, 3, "steps")
        return run(options)

    for width, code in ((4, 0), (-1, 2), (13, 1)):
        argv = ["--log", "json", "--output", output, "--width", str(width)]
        assert launch("t", Options, run_and_tell, argv) == code
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    fields = {(line["job"], line["job_id"], line["dataset"]) for line in said}
    assert fields == {("t", "raysubmit_7", output)}
    warning, progress, end, _, _, refused, _, _, failed = said
    assert (warning["level"], warning["message"]) == ("warning", "warning: few cells")
    assert (progress["level"], progress["step"], progress["total"], progress["unit"]) == (
        "info",
        3,
        3,
        "steps",
    )
    assert end["cells"] == 4
    assert refused["level"] == "error"
    assert "must not be negative" in refused["message"]
    assert "thirteen" in failed["message"]
    assert "RuntimeError: thirteen" in failed["traceback"]


def test_job_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SYNCYTIUM_JOB_ID", "RAY_JOB_CONFIG_JSON_ENV_VAR", "SLURM_ARRAY_JOB_ID", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    assert job_id() != job_id()
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    assert job_id() == "78"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert job_id() == "77_1"
    monkeypatch.setenv("SYNCYTIUM_JOB_ID", "mine")
    assert job_id() == "mine"
