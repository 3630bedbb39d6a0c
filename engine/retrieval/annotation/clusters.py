"""Clusters and what speaks for their names: the closest label, genes above the rest, terms, typical cells.

Legend: C cells, G genes, N clusters of all fields, one after another, U width of the common space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.retrieval.annotation.expression import ClusterSums
from engine.retrieval.annotation.vocabulary import Libraries
from engine.retrieval.annotation.zero_shot import Named, ZeroShot, rank_terms, softmax

LEIDEN = "leiden"
GENES_SHOWN, CELLS_SHOWN, LABELS_SHOWN = 10, 3, 3
# A gene marks a cluster when at least this share of its cells have it: what a tenth of them have is noise.
LEAST_SHARE = 0.1

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClusterField:
    """One way to group cells. names: of the groups. number_C: each cell's, -1 for none."""

    name: str
    names: tuple[str, ...]
    number_C: npt.NDArray[np.int32]

    @classmethod
    def of_leiden(cls, cluster_C: npt.NDArray[np.int32]) -> ClusterField:
        n_clusters = int(cluster_C.max(initial=-1)) + 1
        return cls(LEIDEN, tuple(map(str, range(n_clusters))), cluster_C)

    @classmethod
    def of_column(cls, name: str, column: pd.Series[Any]) -> ClusterField:
        values = column.astype("category")
        return cls(name, tuple(map(str, values.cat.categories)), values.cat.codes.to_numpy().astype(np.int32))

    @property
    def label_column(self) -> str:
        """CellWhisperer's name of the column with the groups' titles."""
        return "cluster_label" if self.name == LEIDEN else f"{self.name}_label"


class EmbeddingSums:
    """Sums of embeddings over the clusters of all fields, and how often each cell label occurs in them."""

    def __init__(self, fields: Sequence[ClusterField], width: int, n_labels: int) -> None:
        self.fields = fields
        self.first_F = np.concatenate([[0], np.cumsum([len(field.names) for field in fields])])
        n_clusters = int(self.first_F[-1])
        self.sum_NU, self.size_N = np.zeros((n_clusters, width)), np.zeros(n_clusters)
        self.named_NL = np.zeros((n_clusters, n_labels))

    def add(self, start: int, e_CU: npt.NDArray[np.float32], named: Named) -> None:
        """The cells from `start` on."""
        known_C = named.best_C >= 0
        for field, first in zip(self.fields, self.first_F[:-1], strict=True):
            number_C = field.number_C[start : start + len(e_CU)]
            rows = np.flatnonzero(known_C & (number_C >= 0))
            np.add.at(self.sum_NU, number_C[rows] + first, e_CU[rows])
            np.add.at(self.size_N, number_C[rows] + first, 1)
            np.add.at(self.named_NL, (number_C[rows] + first, named.best_C[rows]), 1)

    def means(self) -> npt.NDArray[np.float32]:
        """Mean embeddings [N, U]. Not brought to length one again, as in CellWhisperer: a mixed group scores
        lower on everything.
        """
        return (self.sum_NU / np.maximum(self.size_N, 1)[:, None]).astype(np.float32)


class TypicalCells:
    """The cells nearest to the mean of their cluster."""

    def __init__(self, sums: EmbeddingSums) -> None:
        self.sums, self.mean_NU = sums, sums.means()
        self.best: list[list[tuple[float, int]]] = [[] for _ in self.mean_NU]

    def add(self, start: int, e_CU: npt.NDArray[np.float32]) -> None:
        for field, first in zip(self.sums.fields, self.sums.first_F[:-1], strict=True):
            number_C = field.number_C[start : start + len(e_CU)]
            rows = np.flatnonzero((number_C >= 0) & np.isfinite(e_CU).all(axis=1))
            cosine_R = np.einsum("ru,ru->r", e_CU[rows], self.mean_NU[number_C[rows] + first])
            order = np.lexsort((-cosine_R, number_C[rows]))
            numbers, begins = np.unique(number_C[rows][order], return_index=True)
            for number, begin in zip(numbers, begins, strict=True):
                best = [at for at in order[begin : begin + CELLS_SHOWN] if number_C[rows[at]] == number]
                found = [(float(cosine_R[at]), start + int(rows[at])) for at in best]
                kept = self.best[number + first] + found
                self.best[number + first] = sorted(kept, key=lambda entry: (-entry[0], entry[1]))[
                    :CELLS_SHOWN
                ]


def marker_genes(
    sums: ClusterSums, rows: slice, gene_names: Sequence[str], shown: int = GENES_SHOWN
) -> list[list[dict[str, Any]]]:
    """For each cluster of one field, the genes that stand out from the field's other cells.

    Ranked by difference of mean normalised expression over the pooled standard deviation; only genes that are
    higher, and in a tenth of the cluster's cells.
    """
    size_N = sums.size_N[rows]
    total = float(size_N.sum())
    found = []
    for number in range(len(size_N)):
        inside, outside = size_N[number], total - size_N[number]
        sum_G, rest_G = sums.sum_NG[rows][number], sums.sum_NG[rows].sum(axis=0) - sums.sum_NG[rows][number]
        mean_G, other_G = sum_G / max(inside, 1), rest_G / max(outside, 1)
        squares_G = sums.square_NG[rows].sum(axis=0)
        within_G = (squares_G - inside * mean_G**2 - outside * other_G**2) / max(total - 2, 1)
        spread_G = np.sqrt(np.maximum(within_G, 1e-6))
        share_G = sums.cells_NG[rows][number] / max(inside, 1)
        elsewhere_G = (sums.cells_NG[rows].sum(axis=0) - sums.cells_NG[rows][number]) / max(outside, 1)
        score_G = np.where(share_G >= LEAST_SHARE, (mean_G - other_G) / spread_G, -np.inf)
        order = [int(gene) for gene in np.argsort(-score_G, kind="stable")[:shown] if score_G[gene] > 0]
        found.append(
            [
                {
                    "gene": gene_names[gene],
                    "effect": round(float(score_G[gene]), 3),
                    "mean": round(float(mean_G[gene]), 3),
                    "mean_of_others": round(float(other_G[gene]), 3),
                    "share_of_cells": round(float(share_G[gene]), 3),
                    "share_of_others": round(float(elsewhere_G[gene]), 3),
                }
                for gene in order
            ]
        )
    return found


@dataclass(frozen=True)
class Evidence:
    """What a cluster's title and caption rest on; JSON values."""

    n_cells: int
    label: str
    confidence: float
    is_named: bool
    agreement: float
    """Share of the cluster's cells whose own best label is this one."""
    labels: list[tuple[str, float]]
    genes: list[dict[str, Any]]
    terms: list[tuple[str, list[tuple[str, float]]]]
    typical_cells: list[str]
    composition: dict[str, list[tuple[str, float]]]


def evidence_of_field(
    position: int,
    sums: EmbeddingSums,
    expression: ClusterSums,
    typical: TypicalCells,
    labels: ZeroShot,
    term_score_NL: npt.NDArray[np.float32] | None,
    libraries: Libraries,
    obs: pd.DataFrame,
    gene_names: Sequence[str],
) -> list[Evidence]:
    """Evidence for each cluster of the field at `position`."""
    field = sums.fields[position]
    first, stop = int(sums.first_F[position]), int(sums.first_F[position + 1])
    named = labels.name(typical.mean_NU[first:stop])
    probability_NL = softmax(named.score_CL) if stop > first else named.score_CL
    genes = marker_genes(expression, slice(first, stop), gene_names)
    found = []
    for number in range(stop - first):
        row, best = first + number, int(named.best_C[number])
        order = np.argsort(-probability_NL[number], kind="stable")[:LABELS_SHOWN]
        own = sums.named_NL[row]
        terms = [] if term_score_NL is None else rank_terms(term_score_NL[row], libraries)
        found.append(
            Evidence(
                n_cells=int((field.number_C == number).sum()),
                label=labels.names[best],
                confidence=round(float(named.confidence_C[number]), 4),
                # A mean may lie near a label that hardly any of the averaged cells are near.
                is_named=bool(named.is_named_C[number] and own[best] > 0 and own[best] == own.max()),
                agreement=round(float(own[best] / max(own.sum(), 1)), 4),
                labels=[(labels.names[at], round(float(probability_NL[number, at]), 4)) for at in order],
                genes=genes[number],
                terms=[(library, [(n, round(z, 2)) for n, z in ranked]) for library, ranked in terms],
                typical_cells=[str(obs.index[cell]) for _, cell in typical.best[row]],
                composition=composition(obs, field, number),
            )
        )
    return found


def composition(obs: pd.DataFrame, field: ClusterField, number: int) -> dict[str, list[tuple[str, float]]]:
    """What else is known of a cluster's cells: for text columns of few values, the commonest two and their
    shares.
    """
    rows = field.number_C == number
    found: dict[str, list[tuple[str, float]]] = {}
    for name in obs.columns:
        column = obs[name]
        if name == field.name or not isinstance(column.dtype, pd.CategoricalDtype):
            continue
        shares = column[rows].value_counts(normalize=True).head(2)
        if len(column.cat.categories) > 1 and len(shares):
            found[str(name)] = [
                (str(value), round(float(share), 3)) for value, share in shares.items() if share
            ]
    return found
