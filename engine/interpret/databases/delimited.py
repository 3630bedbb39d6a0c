"""Tables of text with a header: columns by name, one of the published layouts, anything else refused.

Streams: memory is one row, and 8 bytes a row to find repeated ones.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from operator import itemgetter
from pathlib import Path
from typing import Literal

import numpy as np

from engine.interpret.databases.files import open_bytes, open_lines
from engine.interpret.databases.intake import Intake
from storage.errors import InputError

# A few rows are repeated in files as published (HPO's of 2021, Monarch's); a file with more was put together
# from two downloads.
_FEW_REPEATS = 0.05
_NAMES = {"\t": "tabs", ",": "commas", " ": "spaces", ";": "semicolons"}


@dataclass(frozen=True)
class Layout:
    """columns: the header's names of the values wanted, in the parser's order; "" for one that this layout
    does not have. A file has the layout when its header has all of them.

    stated, header: for files whose first line is not the header: that line, and what the columns really are.
    """

    name: str
    columns: tuple[str, ...]
    stated: str = ""
    header: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """A published table: its layouts, the current one first.

    comment: lines that begin with it are none of the table, unless they are its header. repeats: what a row
    that occurs twice means: `refuse` where rows have a key, `few` where some are known, `unchecked`.
    """

    what: str
    layouts: tuple[Layout, ...]
    delimiter: str = "\t"
    quoted: bool = False
    comment: str = "#"
    repeats: Literal["refuse", "few", "unchecked"] = "refuse"
    member: str = "*"


def read_rows(path: Path, table: Format, intake: Intake) -> Iterator[tuple[str, ...]]:
    """The wanted values of each row, "" for columns that the layout lacks.

    Counts rows and names the layout in `intake`. Raises InputError with the file and line: unknown layout,
    another separator, rows of another width than the header, repeated rows.
    """
    with _fields(path, table) as rows:
        header, layout, rows = _header(path, table, rows, intake)
        intake.layouts[path.name] = layout.name
        pick = _picker(header, layout)
        hashes = array("q")
        for number, fields in rows:
            if len(fields) != len(header):
                raise InputError(
                    f"{path}, line {number}: {len(fields)} fields, the header has {len(header)}; the file is "
                    "truncated or its separator changed. Download it again."
                )
            if table.repeats != "unchecked":
                hashes.append(hash(tuple(fields)))
            intake.rows[path.name] += 1
            yield pick(fields)
    if not intake.rows[path.name]:
        raise InputError(f"{path}: a header of {table.what} and no row below it; download it again.")
    _check_repeats(path, table, hashes, intake)


@contextmanager
def _fields(path: Path, table: Format) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """(line number, fields) of every line that is not blank."""
    if not table.quoted:
        with open_lines(path, table.member) as lines:
            split = ((number, line.split(table.delimiter)) for number, line in enumerate(lines, 1) if line)
            yield split
        return
    csv.field_size_limit(1 << 24)
    with open_bytes(path, table.member) as stream:
        # newline="": notes hold line breaks inside quotes.
        text = TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
        yield _quoted(path, table, csv.reader(text, delimiter=table.delimiter, strict=True))


def _quoted(path: Path, table: Format, reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    number = 0
    try:
        for fields in reader:
            number += 1
            if fields:
                yield number, fields
    except csv.Error as error:
        raise InputError(
            f"{path}, after row {number}: broken quoting, or a separator other than "
            f"{_NAMES[table.delimiter]} ({error}); download it again."
        ) from error


def _header(
    path: Path, table: Format, rows: Iterator[tuple[int, list[str]]], intake: Intake
) -> tuple[tuple[str, ...], Layout, Iterator[tuple[int, list[str]]]]:
    """(names of the columns, layout, rows below)."""
    intake.comments = []
    for number, fields in rows:
        line = table.delimiter.join(fields)
        for layout in table.layouts:
            if layout.stated and line.strip() == layout.stated:
                return layout.header, layout, _below(rows, table)
        names = tuple(name.strip().lstrip("#").strip() for name in fields)
        for layout in table.layouts:
            if not layout.stated and set(filter(None, layout.columns)) <= set(names):
                return names, layout, _below(rows, table)
        if not (table.comment and line.startswith(table.comment)):
            raise InputError(_unknown_layout(path, number, [*intake.comments[-1:], line], table))
        intake.comments.append(line)
    raise InputError(f"{path}: only comments, no header of {table.what}; download it again.")


def _below(rows: Iterator[tuple[int, list[str]]], table: Format) -> Iterator[tuple[int, list[str]]]:
    if not table.comment:
        return rows
    return (row for row in rows if not row[1][0].startswith(table.comment))


def _unknown_layout(path: Path, number: int, lines: list[str], table: Format) -> str:
    """lines: the one that should have been the header; before it the last comment, which may have been."""
    known = "; ".join(
        f"{layout.name}: " + (layout.stated or ", ".join(filter(None, layout.columns)))
        for layout in table.layouts
    )
    found = "\n    ".join(line if len(line) <= 300 else line[:300] + "..." for line in lines)
    hint = ""
    for other, name in _NAMES.items():
        for line in lines:
            names = {field.strip().lstrip("#").strip().strip('"') for field in line.split(other)}
            if other != table.delimiter and any(set(filter(None, x.columns)) <= names for x in table.layouts):
                hint = f" Its columns are separated by {name}, expected {_NAMES[table.delimiter]}."
    return (
        f"{path}, line {number}: unknown layout of {table.what}.{hint}\n  header found: {found}\n"
        f"  columns known: {known}"
    )


def _picker(header: tuple[str, ...], layout: Layout) -> Callable[[list[str]], tuple[str, ...]]:
    """Values of the wanted columns from the fields of a row."""
    places = [header.index(name) if name else len(header) for name in layout.columns]
    if len(places) == 1:
        raise ValueError(f"layout {layout.name}: wants one column; a row would come as a string")
    pick: Callable[[list[str]], tuple[str, ...]] = itemgetter(*places)
    return pick if max(places) < len(header) else lambda fields: pick([*fields, ""])


def _check_repeats(path: Path, table: Format, hashes: array[int], intake: Intake) -> None:
    if len(hashes) < 2:
        return
    every = np.frombuffer(hashes, np.int64)
    first = np.unique(every, return_index=True)[1]
    n_repeats = len(every) - len(first)
    if not n_repeats:
        return
    if table.repeats == "refuse" or n_repeats > _FEW_REPEATS * len(every):
        again = np.ones(len(every), bool)
        again[first] = False
        row = int(again.argmax())
        earlier = int((every == every[row]).argmax())
        raise InputError(
            f"{path}: {n_repeats:,} of {len(every):,} rows are there twice (row {row + 1} is row "
            f"{earlier + 1}); the file was put together from two. Download it again."
        )
    intake.dropped["row repeated in the file"] += n_repeats
