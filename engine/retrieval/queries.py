"""Cells as queries: of the index itself, or embedded elsewhere by the same model.

Legend: D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.retrieval.build import Source
from engine.retrieval.search import Searcher
from storage.errors import InputError

Float32 = npt.NDArray[np.float32]

# Length of the mean of unit vectors below which most of them are further from it than 60 degrees.
_MIXED = 0.5


@dataclass(frozen=True)
class Query:
    """name: what the answers are to. vector: `[D]`. where: which cells may be answers. notes: what is worth
    saying of the cells it was made from.
    """

    name: str
    vector: Float32
    where: str | None = None
    notes: tuple[str, ...] = ()


def like_cells(
    searcher: Searcher, condition: str, minus: str | None = None, where: str | None = None
) -> Query:
    """Like the cells of the index that pass a condition, and unlike those that pass `minus`; neither are
    answers themselves. Raises InputError when no cell passes one of them.
    """
    vector, note = _mean(searcher, condition)
    vector, notes, left_out = _direction(vector), [note], f"({condition})"
    if minus is not None:
        unlike, note = _mean(searcher, minus)
        vector, left_out = vector - _direction(unlike), f"{left_out} or ({minus})"
        notes.append(note)
    where = f"not ({left_out})" if where is None else f"({where}) and not ({left_out})"
    return Query(_name(condition, minus), vector, where, tuple(notes))


def mean_of_cells(searcher: Searcher, condition: str, minus: str | None = None) -> Query:
    """The mean of the unit vectors of cells, less that of others: shorter the more they differ, so that a
    mixture is less like any phrase (as in CellWhisperer).
    """
    vector, note = _mean(searcher, condition)
    notes = [note]
    if minus is not None:
        unlike, note = _mean(searcher, minus)
        vector = vector - unlike
        notes.append(note)
    return Query(_name(condition, minus), vector, None, tuple(notes))


def of_embeddings(
    searcher: Searcher, path: str, max_cells: int | None = None, where: str | None = None
) -> list[Query]:
    """Each cell of some embeddings. Raises InputError when another model than the index's made them."""
    source = Source.open(path, (), max_cells)
    if source.model != searcher.index.facts["model"]:
        raise InputError(
            f"--query-embeddings {path}: by {source.model}; the index holds embeddings by "
            f"{searcher.index.facts['model']}, and vectors of two models cannot be compared."
        )
    vectors = source.embeddings.read(0, source.n_cells)
    names = source.obs.index.astype(str)
    return [Query(name, vector, where) for name, vector in zip(names, vectors, strict=True)]


def _mean(searcher: Searcher, condition: str) -> tuple[Float32, str]:
    vector, n_cells = searcher.mean(condition)
    if not n_cells:
        raise InputError(f"query {condition!r}: no cell of the index passes.")
    alike = float(np.linalg.norm(vector))
    mixed = "; they are of several kinds, and their mean may be like none" if alike < _MIXED else ""
    return vector, f"{condition}: the mean of {n_cells:,} cells, alike to {alike:.2f}{mixed}"


def _direction(vector: Float32) -> Float32:
    return vector / np.float32(max(float(np.linalg.norm(vector)), 1e-12))


def _name(condition: str, minus: str | None) -> str:
    return condition if minus is None else f"{condition} minus {minus}"
