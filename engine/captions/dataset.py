"""Captions of a cell store as a committed dataset.

    parts/<key>-<hash>.json    captions of some distinct combinations of metadata
    captions.parquet           `cell` and `caption` of every cell, written when all parts are committed

The parts of a language model differ from one run to the next. So their names hold the hash of what is in
them: of two workers that wrote the same part, the one that committed first is believed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import xxhash

from engine.captions.source import FILE, encode_captions, require_columns
from engine.captions.templates import as_texts
from storage.cells import CellStore
from storage.commits import Dataset, MemberPlan, Snapshot
from storage.errors import DamagedDataset, InputError

KIND = "captions"


class Combinations(NamedTuple):
    """Distinct combinations of some columns' values, and the number of each cell's; -1 for one without any
    value. A value that is missing is left out of its combination."""

    records: list[dict[str, str]]
    of_cell_C: npt.NDArray[np.int64]


def combinations(store: CellStore, n_cells: int, columns: Sequence[str]) -> Combinations:
    """Of the first cells. Raises InputError for columns that the store does not have, or without values."""
    obs = require_columns(store, list(columns), "--columns").iloc[:n_cells]
    table = pd.DataFrame({name: as_texts(obs[name]).to_numpy() for name in columns}).fillna("")
    distinct = table.drop_duplicates().sort_values(list(columns), kind="stable")
    distinct = distinct[(distinct != "").any(axis=1)]
    if distinct.empty:
        raise InputError(f"{store.location}: no cell has a value in {', '.join(columns)}.")
    keys = pd.MultiIndex.from_frame(distinct)
    of_cell_C = keys.get_indexer(pd.MultiIndex.from_frame(table))
    rows = distinct.to_dict(orient="records")
    records = [{str(name): str(value) for name, value in row.items() if value} for row in rows]
    return Combinations(records, of_cell_C.astype(np.int64))


def plan_parts(n_records: int, size: int) -> list[MemberPlan]:
    return [
        MemberPlan(f"{number:06d}", {"start": start, "stop": min(start + size, n_records)})
        for number, start in enumerate(range(0, n_records, size))
    ]


def commit_part(dataset: Dataset, key: str, captions: Sequence[str | None]) -> None:
    """Write and commit the captions of one part, unless another has meanwhile."""
    content = json.dumps(list(captions), ensure_ascii=False).encode()
    name = f"parts/{key}-{xxhash.xxh3_64_hexdigest(content)}.json"
    writer = dataset.member(key)
    try:
        writer.put(name, content)
        writer.commit()
    except DamagedDataset:
        # Committed with other captions: another worker was first, which is not damage here.
        if key in {member.key for member in dataset.pending()}:
            raise


def read_parts(dataset: Dataset) -> list[str | None]:
    """Captions of all records, in order."""
    captions: list[str | None] = []
    for record in dataset.records():
        (name,) = record.objects
        captions += json.loads(dataset.location.read(name))
    return captions


def finish(
    dataset: Dataset,
    store: CellStore,
    found: Combinations,
    captions: Sequence[str | None],
    facts: Mapping[str, Any],
) -> Snapshot:
    """Write the captions of all cells and the snapshot."""
    written = np.array([*captions, None], dtype=object)  # -1 is the last: none
    of_cell = pd.Series(written[found.of_cell_C], dtype=object)
    cells = [str(name) for name in store.obs([]).index[: len(of_cell)]]
    return dataset.finish({FILE: encode_captions(cells, of_cell)}, facts)
