"""Answers as rows for people and programs: what was found, what is known of it, and what that is worth."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from engine.retrieval.calibration import Calibration, verdict_of
from engine.retrieval.found import Found
from engine.retrieval.phrases import Ranked
from storage.index import VectorIndex
from storage.index.cell_tables import NAME
from storage.locations import Location

# Of a printed table; programs get all.
_SHOWN_COLUMNS, _SHOWN_WIDTH = 6, 28


def cell_rows(
    name: str, found: Found, index: VectorIndex, calibration: Calibration | None = None
) -> list[dict[str, Any]]:
    """One row a hit: query, rank, score, cell (`row`, `name`), its obs; with a calibration also the
    probability of being what was asked for, and the verdict on it.
    """
    known = index.annotations(found.cell)
    names = known.pop(NAME).tolist() if len(known) else []
    columns = known.astype(object).where(known.notna(), None)
    rows = []
    for rank, (score, cell) in enumerate(zip(found.score.tolist(), found.cell.tolist(), strict=True)):
        row = {"query": name, "rank": rank + 1, "score": round(score, 5), "row": cell, "name": names[rank]}
        if calibration is not None:
            probability = float(calibration.probabilities(np.array([score]))[0])
            row |= {"probability": round(probability, 4), "verdict": verdict_of(probability)}
        obs = {str(column): columns[column].iloc[rank] for column in columns.columns}
        rows.append({**row, "obs": obs})
    return rows


def phrase_rows(
    name: str, overall: Sequence[Ranked], by_library: Mapping[str, Sequence[Ranked]]
) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Rows of the best phrases over all libraries, and of each library."""
    return (
        [_phrase_row(name, place, ranked) for place, ranked in enumerate(overall, 1)],
        {
            library: [_phrase_row(name, ranked.place, ranked) for ranked in ranks]
            for library, ranks in by_library.items()
        },
    )


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as text to print; not all columns of obs."""
    if not rows:
        return "nothing passes"
    own = pd.DataFrame([{key: value for key, value in row.items() if key != "obs"} for row in rows])
    if own["query"].nunique() == 1:
        own = own.drop(columns="query")
    known = pd.DataFrame([row.get("obs", {}) for row in rows]).iloc[:, :_SHOWN_COLUMNS]
    text: str = pd.concat([own, known], axis=1).to_string(index=False, max_colwidth=_SHOWN_WIDTH)
    return text


def write_scores(path: str, score_C: npt.NDArray[np.float32], index: VectorIndex) -> int:
    """Write scores of all cells (`Searcher.scores_by_cell`): float32 in the order of cell ids as numpy keeps
    them or, if `path` ends in `.parquet`, row, name and score of the cells that have one. Returns how many.
    """
    buffer = io.BytesIO()
    rows = np.flatnonzero(np.isfinite(score_C))
    if path.endswith(".parquet"):
        names = index.annotations(rows)[NAME].tolist()
        pq.write_table(pa.table({"row": rows, "name": names, "score": score_C[rows]}), buffer)
    else:
        np.save(buffer, score_C)
    Location.of(path).put("", buffer.getvalue())
    return len(rows)


def _phrase_row(name: str, place: int, ranked: Ranked) -> dict[str, Any]:
    return {
        "query": name,
        "rank": place,
        "score": round(ranked.score, 5),
        "probability": float(f"{ranked.probability:.4g}"),
        "term": ranked.term,
        "library": ranked.library,
        "place_in_library": ranked.place,
    }
