"""`syncytium inspect`: what it prints and how it exits."""

import json
from pathlib import Path

import pytest

from jobs.inspect import main
from storage.locations import Location
from tests.storage.small_datasets import planned, write_all


def test_a_sound_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_all(str(tmp_path))
    assert main([str(tmp_path), "--verify", "--json"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "kind: test" in printed
    assert "members_committed: 3" in printed
    assert "  tokens" in printed
    assert "    max: 5" in printed
    assert "problems: none" in printed
    record = json.loads(printed[-1])
    assert record["facts"]["state"] == "finished"
    assert not (tmp_path / "run.json").exists()


def test_damage_exits_1_after_saying_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_all(str(tmp_path))
    Location.of(tmp_path).put("a/01", b"other")
    assert main([str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "kind: test" in printed.out
    assert "  a/01: 5 bytes, 700 committed" in printed.out
    assert "a/01" in printed.err


def test_an_unfinished_dataset_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned(str(tmp_path))
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "pending: 00, 01, 02" in printed
    assert "members_planned: 3" in printed


def test_nothing_there_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "no")]) == 2
    assert "neither a dataset" in capsys.readouterr().err


def test_a_report_file(tmp_path: Path) -> None:
    write_all(str(tmp_path / "dataset"))
    assert main([str(tmp_path / "dataset"), "--output", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_bytes())
    assert report["members_planned"] == 3
    assert report["problems"] == []
