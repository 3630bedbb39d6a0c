"""Whether the score of a gene set's name follows the expression of its genes.

CellWhisperer compares with ssGSEA; here a set's expression is the mean rank of its genes among all genes of a
cell, scaled to [0, 1], which needs no parameters and one matrix product.
Legend: C cells, T terms, G genes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse, stats

from engine.retrieval.annotation.vocabulary import Libraries, Term
from engine.retrieval.annotation.zero_shot import text_directions
from engine.retrieval.evaluation.inputs import MeasuredCells

LEAST_GENES = 5
MOST_CELLS = 2_000
_BLOCK = 256

Float64 = npt.NDArray[np.float64]


def term_correlations(
    libraries: Libraries, side: Any, cells: MeasuredCells, seed: int
) -> dict[str, Any] | None:
    """By library: mean Pearson and Spearman correlation over cells of each term, over terms of each cell, and
    the share of terms whose genes are higher (Kolmogorov-Smirnov, p < 0.05) where the name scores above its
    mean. None without a term of at least five of the store's genes.
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(len(cells))[:MOST_CELLS])
    found, rows = {}, []
    for library, terms in libraries.items():
        kept, member_TG = gene_sets(terms, cells.store.genes)
        if not kept:
            continue
        names_TU = text_directions(side, kept, ("{}",), cells.e_CU.shape[1])
        name_CT = (cells.e_CU[drawn] @ names_TU.T).astype(np.float64)
        genes_CT = set_ranks(cells.expression[drawn], member_TG)
        table = _by_term(kept, name_CT, genes_CT)
        found[library] = {
            "n_terms": len(kept),
            "n_cells": len(drawn),
            "pearson": _mean(table["pearson"]),
            "spearman": _mean(table["spearman"]),
            "pearson_over_terms": _mean(pearsons(name_CT.T, genes_CT.T)) if len(kept) > 2 else None,
            "ks_share": float(((table["ks_p"] < 0.05) & (table["shift"] > 0)).mean()),
        }
        rows += [{"library": library, **row} for row in table.to_dict("records")]
    return {"libraries": found, "terms": rows} if found else None


def gene_sets(terms: list[Term], genes: pd.DataFrame) -> tuple[list[Term], sparse.csr_matrix]:
    """Terms of at least five known genes, and which genes they have [T, G], by id or symbol."""
    number = {str(name).upper(): i for i, name in reversed(list(enumerate(genes["gene_name"])))}
    number |= {str(name).upper(): i for i, name in enumerate(genes.index)}
    kept: list[Term] = []
    rows: list[int] = []
    columns: list[int] = []
    for term in terms:
        own = {number[gene.upper()] for gene in term.genes if gene.upper() in number}
        if len(own) >= LEAST_GENES:
            rows += [len(kept)] * len(own)
            columns += sorted(own)
            kept.append(term)
    shape = (len(kept), len(genes))
    return kept, sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)


def set_ranks(expression: sparse.csr_matrix, member_TG: sparse.csr_matrix) -> Float64:
    """Mean rank of each set's genes in each cell [C, T], 0 for the lowest of all genes, 1 for the highest;
    genes without counts share the mean of their ranks.
    """
    n_genes = expression.shape[1]
    size_T = np.asarray(member_TG.sum(axis=1)).ravel()
    found = np.empty((expression.shape[0], member_TG.shape[0]))
    for start in range(0, expression.shape[0], _BLOCK):
        dense = np.asarray(expression[start : start + _BLOCK].todense())
        ranks = (stats.rankdata(dense, axis=1) - 1) / max(n_genes - 1, 1)
        found[start : start + len(dense)] = (member_TG @ ranks.T).T / size_T
    return found


def pearsons(x_CT: Float64, y_CT: Float64) -> Float64:
    """Of each column; NaN where one of the two does not vary."""
    x_CT, y_CT = x_CT - x_CT.mean(axis=0), y_CT - y_CT.mean(axis=0)
    lengths = np.sqrt((x_CT**2).sum(axis=0) * (y_CT**2).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Float64 = np.where(lengths > 0, (x_CT * y_CT).sum(axis=0) / lengths, np.nan)
    return found


def _by_term(terms: list[Term], name_CT: Float64, genes_CT: Float64) -> pd.DataFrame:
    spearman = pearsons(stats.rankdata(name_CT, axis=0), stats.rankdata(genes_CT, axis=0))
    table = pd.DataFrame({"term": [term.name for term in terms]})
    table["pearson"], table["spearman"] = pearsons(name_CT, genes_CT), spearman
    tests = []
    for name_C, genes_C in zip(name_CT.T, genes_CT.T, strict=True):
        above = name_C > name_C.mean()
        tested = bool(above.any() and (~above).any())
        p = float(stats.ks_2samp(genes_C[above], genes_C[~above]).pvalue) if tested else 1.0
        tests.append((p, float(genes_C[above].mean() - genes_C[~above].mean()) if tested else 0.0))
    table["ks_p"], table["shift"] = zip(*tests, strict=True)
    return table


def _mean(values: Any) -> float | None:
    known = np.asarray(values, np.float64)
    return float(np.nanmean(known)) if np.isfinite(known).any() else None
