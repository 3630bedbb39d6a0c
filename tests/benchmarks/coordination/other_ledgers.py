"""Other ways to keep the same records: one commit of a table for each, in Lance and in SQLite.

Each is a generator that has committed one more record at every step.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import lancedb
import pyarrow as pa

from storage.protocol.snapshots import Record, Stored
from tests.benchmarks.coordination.simulated_workers import CONTENT, OBJECTS


def record(number: int) -> Record:
    """As a worker of the simulation commits it."""
    key = f"{number:06d}"
    objects = {f"{name}/{key}.safetensors": Stored.of(CONTENT) for name in OBJECTS}
    facts = {"start": number * 4096, "stop": (number + 1) * 4096, "n_tokens": 262_144}
    return Record(key, objects, facts)


def with_lance(folder: Path, n: int) -> Iterator[int]:
    """A version of the table for each record, as a dataset of Lance fragments has it."""
    schema = pa.schema([("key", pa.string()), ("record", pa.string())])
    table = lancedb.connect(str(folder)).create_table("records", schema=schema)
    for number in range(n):
        line = json.dumps(record(number).as_json())
        table.add(pa.table({"key": [f"{number:06d}"], "record": [line]}, schema=schema))
        yield number


def with_sqlite(folder: Path, n: int) -> Iterator[int]:
    """A transaction for each record in one file, with a write-ahead log; durable, as our records are.

    What a coordinator on one machine could do at best: SQLite has no way to be shared over a network.
    """
    folder.mkdir()
    with sqlite3.connect(folder / "records.db", isolation_level=None) as ledger:
        ledger.execute("PRAGMA journal_mode=WAL")
        ledger.execute("PRAGMA synchronous=FULL")
        ledger.execute("CREATE TABLE record (key TEXT PRIMARY KEY, line TEXT)")
        for number in range(n):
            line = json.dumps(record(number).as_json())
            ledger.execute("INSERT INTO record VALUES (?, ?)", (f"{number:06d}", line))
            yield number
    ledger.close()
