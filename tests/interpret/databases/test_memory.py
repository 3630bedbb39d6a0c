"""Large sources are read row by row: what is held does not grow with the file, but for a hash a row."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from engine.interpret.databases import clinvar, string
from tests.benchmarks.published import files
from tests.interpret.databases.conftest import take_in

HASH_BYTES = 12
"""8 bytes a row to find repeated ones, and the room an array keeps to grow."""
SLACK = 300_000


def peak(source: str, paths: dict[str, Path], rules: object) -> int:
    """Bytes held at most while a source is read of which the rules keep nothing."""
    tracemalloc.start()
    try:
        intake = take_in(source, paths, rules)
        assert not intake.associations
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_clinvar_is_not_held(tmp_path: Path) -> None:
    few, many = 1_000, 9_000
    peaks = []
    for rows in (few, many):
        (tmp_path / str(rows)).mkdir()
        paths = {"summary": files.clinvar(tmp_path / str(rows), rows)}
        peaks.append(peak("clinvar", paths, clinvar.Rules(stars=5)))
    # Held as text alone, the rows between would be six megabytes.
    assert peaks[1] - peaks[0] < HASH_BYTES * (many - few) + SLACK


def test_string_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(string, "_ROWS", 512)
    peaks = []
    for rows in (2_000, 20_000):
        (tmp_path / str(rows)).mkdir()
        links = files.string(tmp_path / str(rows), rows)
        paths = {"links": links, "info": links.with_name("9606.protein.info.v12.0.txt")}
        peaks.append(peak("string", paths, string.Rules(threshold=1001)))
    assert peaks[1] - peaks[0] < SLACK
