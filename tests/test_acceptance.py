"""The acceptance table names tests that exist."""

import re

from tests.conftest import REPOSITORY

TABLE = REPOSITORY / "docs" / "reference" / "acceptance.md"


def test_every_named_test_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE.read_text())
    assert len(named) >= 12
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not re.search(rf"^def {name}\(", (REPOSITORY / path).read_text(), re.MULTILINE)
    ]
    assert not missing


def test_every_item_of_the_list_has_its_line() -> None:
    rows = re.findall(r"^\| (\d)\. .+ \| (.+) \|$", TABLE.read_text(), re.MULTILINE)
    assert {number for number, _ in rows} == set("123456789")
    assert all(len(held_by.strip()) > 5 for _, held_by in rows)
