"""Labels and term libraries from files and the command line."""

import gzip
import json
from pathlib import Path

import pytest

from engine.retrieval.annotation.vocabulary import read_labels, read_libraries
from storage.errors import InputError


def test_labels_from_the_command_line_and_files(tmp_path: Path) -> None:
    lines, objects = tmp_path / "labels.txt", tmp_path / "labels.json"
    lines.write_text("# blood\nT cell\n\nCD4+, naive T cell\n")
    objects.write_text(json.dumps({"T cell": ["T lymphocyte", "T cell"], "B cell": []}))
    assert [term.name for term in read_labels("T cell, B cell")] == ["T cell", "B cell"]
    assert [term.name for term in read_labels(str(lines))] == ["T cell", "CD4+, naive T cell"]
    assert [term.texts for term in read_labels(str(objects))] == [("T lymphocyte", "T cell"), ("B cell",)]


@pytest.mark.parametrize(
    ("given", "says"),
    [("T cell", "at least 2"), ("a,b,a", "given twice: a"), ("missing.txt", "no such file")],
)
def test_labels_that_are_refused(given: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_labels(given)


def test_libraries(tmp_path: Path) -> None:
    terms, sets = tmp_path / "terms.json", tmp_path / "sets.gmt.gz"
    terms.write_text(json.dumps({"tissues": ["liver", "lung"], "cells": {"B": ["CD79A"]}}))
    sets.write_bytes(gzip.compress(b"NK\tlink\tNKG7\tGNLY,1.0\n"))
    found = read_libraries([str(terms), str(sets)])
    assert list(found) == ["tissues", "cells", "sets"]
    assert [term.name for term in found["tissues"]] == ["liver", "lung"]
    assert found["cells"][0].genes == ("CD79A",)
    assert found["sets"][0].genes == ("NKG7", "GNLY")
    with pytest.raises(InputError, match="given by another file already"):
        read_libraries([str(terms), str(terms)])
    (tmp_path / "bad.json").write_text('{"tissues": [1]}')
    with pytest.raises(InputError, match="tissues: expected a list of texts"):
        read_libraries([str(tmp_path / "bad.json")])
