"""Reordering answers to a text by the genes that it names: `CD8+ T cell +GZMB -CCR7`.

A gene named by its symbol is evidence that the text tower may not have learned from captions, and the counts
are at hand. The best cells by text and the same cells by expression of those genes are two orders; they are
joined by reciprocal rank fusion, the sum of 1/(60 + rank) over both (Cormack, Clarke and Buettcher 2009), for
which their scores need not be on one scale.

A word is a gene if it is the symbol of one in the store, written as it is there, and has a digit or three
capitals (so that no `T` or `was` is one). It counts with its term's sign; a closing + or - is the sign of
the gene itself (`CCR7-`). Names of proteins (CD3, PD-1) are not looked up: a gene is meant by its symbol.

Legend: M cells of the shortlist, G genes named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from engine.retrieval.found import Found
from engine.retrieval.questions import Term
from storage.cells import CellStore
from storage.errors import InputError
from storage.index import VectorIndex

_DAMPING = 60.0
_PER_CELL = 1e4
_WORD = re.compile(r"[A-Za-z][\w.-]*[A-Za-z0-9](?P<sign>[+-]?)")


@dataclass(frozen=True)
class Marker:
    """A gene of a question. column: in the store. weight: 1 for expressed, -1 for not."""

    symbol: str
    column: int
    weight: float


def markers_of(terms: tuple[Term, ...], store: CellStore) -> list[Marker]:
    """The genes that a question names, each once."""
    columns = {str(name): column for column, name in reversed(list(enumerate(store.genes["gene_name"])))}
    found: dict[str, Marker] = {}
    for term in terms:
        for word in _WORD.finditer(term.phrase):
            symbol = word[0].rstrip("+-")
            if symbol in columns and _looks_like_a_gene(symbol):
                sign = -1.0 if word["sign"] == "-" else 1.0
                found[symbol] = Marker(symbol, columns[symbol], sign * float(np.sign(term.weight)))
    return list(found.values())


def reordered(
    found: Found, k: int, markers: list[Marker], index: VectorIndex, store: CellStore
) -> tuple[Found, npt.NDArray[np.float32]]:
    """The k best of a shortlist by text and markers together, and their expression of each marker `[K, G]`:
    log(1 + counts per 10,000). Scores stay those of the text.

    Raises InputError when the index was not made of this store. Cells that were added from other stores have
    no expression, and rank behind those that have.
    """
    expression_MG = expression(found.cell, markers, index, store)
    weight_G = np.array([marker.weight for marker in markers], np.float32)
    reach_G = np.nanmax(expression_MG, axis=0, initial=1e-6)
    evidence_M = np.nan_to_num((expression_MG / reach_G) @ weight_G, nan=-np.inf)
    # Equals share the rank of the first: all cells without a gene are as good as one another.
    rank_M = 1 + (evidence_M[None] > evidence_M[:, None]).sum(axis=1)
    fused_M = 1 / (_DAMPING + 1 + np.arange(len(found.cell))) + 1 / (_DAMPING + rank_M)
    order = np.argsort(-fused_M, kind="stable")[:k]
    return replace(found, score=found.score[order], cell=found.cell[order]), expression_MG[order]


def expression(
    cell_M: npt.NDArray[np.int64], markers: list[Marker], index: VectorIndex, store: CellStore
) -> npt.NDArray[np.float32]:
    """log(1 + counts per 10,000) `[M, G]`, NaN for cells that do not come from the store."""
    sources = [source for source in index.facts["sources"] if source.get("cells") == store.dataset_id]
    if not sources:
        raise InputError(
            f"--cells {store.location}: {index.snapshot.location} was not made of this store; give the one "
            "that it was made of"
        )
    values_MG = np.full((len(cell_M), len(markers)), np.nan, np.float32)
    columns = [marker.column for marker in markers]
    for source in sources:
        row_M = cell_M - source["first_id"]
        places = np.flatnonzero((row_M >= 0) & (row_M < source["n_cells"]))
        counts = store.read_ranges([(int(row), int(row) + 1) for row in row_M[places]]).to_csr()
        totals = np.maximum(np.asarray(counts.sum(axis=1)), 1)
        values_MG[places] = np.log1p(_PER_CELL * counts[:, columns].toarray() / totals)
    return values_MG


def _looks_like_a_gene(symbol: str) -> bool:
    return any(letter.isdigit() for letter in symbol) or sum(map(str.isupper, symbol)) >= 3
