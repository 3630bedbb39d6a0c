"""Conversations about cells in LLaVA's format, as CellWhisperer writes them: read strictly, wrong ones named.

A JSON array, or one record a line:

    {"id": "c1", "image": "AAACATACAACCAC-1",
     "conversations": [{"from": "human", "value": "What are these?\\n<image>"},
                       {"from": "gpt", "value": "They seem to be B cells."}]}

image: the cell's name in the store or embeddings dataset; several in a list, one for each `<image>` in the
conversation, in their order. Instead of a name a vector of the joint space may stand there as a list of
numbers. Which characters surround `<image>` in a turn does not matter: see `engine.models.chat.templates`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import xxhash

from engine.models.chat import CELLS, Turn
from storage.errors import InputError
from storage.locations import Location

FILE = "conversations.jsonl"
_ROLES = {"human": "user", "gpt": "assistant"}

Vector = tuple[float, ...]


@dataclass(frozen=True)
class Conversation:
    """name: its `id`. cells: for each selection in its turns a cell's name, or a vector."""

    name: str
    turns: tuple[Turn, ...]
    cells: tuple[str | Vector, ...]

    @property
    def group(self) -> str:
        """Conversations about the same cell are learnt from or held out together."""
        first = self.cells[0]
        return first if isinstance(first, str) else xxhash.xxh3_64_hexdigest(repr(first).encode())


def read_conversations(path: str) -> list[Conversation]:
    """Of a file, or of the directory that `syncytium conversations` writes.

    Raises InputError that names the file, the record by its place and id, and the field.
    """
    records = list(_records(path, _content(path)))
    if not records:
        raise InputError(f"{path}: holds no conversation.")
    return [_conversation(record, f"{path}, {place}") for place, record in records]


def hash_of(path: str) -> str:
    """Of the file's bytes."""
    return xxhash.xxh3_128_hexdigest(_content(path))


def _content(path: str) -> bytes:
    location = Location.of(path)
    if location.exists(FILE):
        return location.read(FILE)
    try:
        return location.read()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(
            f"--conversations {path}: no such file, and no directory with {FILE} in it."
        ) from error


def _records(path: str, content: bytes) -> Iterator[tuple[str, Any]]:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error}).") from error
    if text.lstrip().startswith("["):
        for number, record in enumerate(_parsed(path, text, "the array")):
            yield f"record {number}", record
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"line {number}", _parsed(path, line, f"line {number}")


def _parsed(path: str, text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}, {place}: is no JSON ({error}).") from error


def _conversation(record: Any, place: str) -> Conversation:
    if not isinstance(record, dict):
        raise InputError(f"{place}: expected an object, found {type(record).__name__}.")
    name = record.get("id")
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise InputError(f"{place}: id is {name!r}; expected a text or a number.")
    place = f"{place} (id {name})"
    turns = _turns(record.get("conversations"), place)
    cells = _cells(record.get("image"), place)
    wanted = sum(turn.n_cells for turn in turns)
    if wanted != len(cells):
        raise InputError(
            f"{place}: {len(cells)} cells in image, but {CELLS} stands {wanted} times in the human's turns."
        )
    return Conversation(str(name), turns, cells)


def _turns(given: Any, place: str) -> tuple[Turn, ...]:
    if not isinstance(given, list) or not given or len(given) % 2:
        raise InputError(f"{place}: conversations must be a list of pairs, a human's turn and gpt's.")
    turns = []
    for number, turn in enumerate(given):
        speaker = ("human", "gpt")[number % 2]
        if not isinstance(turn, dict) or turn.get("from") != speaker:
            found = turn.get("from") if isinstance(turn, dict) else turn
            raise InputError(f"{place}: turn {number} is from {found!r}; expected {speaker!r}.")
        value = turn.get("value")
        # The human may bring cells without a word: what stage one of LLaVA's training makes of every turn.
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{place}: turn {number} has no words in its value.")
        if speaker == "gpt" and CELLS in value:
            raise InputError(
                f"{place}: turn {number} is gpt's and holds {CELLS}; only the human brings cells."
            )
        turns.append(Turn(_ROLES[speaker], value, value.count(CELLS)))  # type: ignore[arg-type]
    return tuple(turns)


def _cells(given: Any, place: str) -> tuple[str | Vector, ...]:
    """One cell, or a list of them; a list of numbers is one cell."""
    several = isinstance(given, list) and not _is_vector(given)
    found: list[str | Vector] = []
    for cell in given if several else [given]:
        if isinstance(cell, str) and cell:
            found.append(cell)
        elif isinstance(cell, int) and not isinstance(cell, bool):
            found.append(str(cell))  # their ids of samples may be numbers
        elif _is_vector(cell):
            found.append(tuple(float(number) for number in cell))
        else:
            shown = repr(cell)[:60]
            raise InputError(
                f"{place}: image is {shown}; expected a cell's name, or a list of finite numbers."
            )
    if not found:
        raise InputError(f"{place}: image is empty; every conversation is about cells.")
    return tuple(found)


def _is_vector(given: Any) -> bool:
    return (
        isinstance(given, list)
        and len(given) > 1
        and all(
            isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
            for number in given
        )
    )
