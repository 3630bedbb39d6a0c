"""Predictions that need no training to speak of; a model that does not beat them has learned nothing.

All work on effects: differences of log1p-normalised mean profiles from the control of the same context.

Legend: P training perturbations, G genes, K components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.perturbation.rank_sum import Array

NAMES = (
    "control",
    "mean_delta",
    "context_mean",
    "same_perturbation",
    "nearest_neighbour",
    "ridge",
    "additive",
)
REPLICATE = "replicate"
"""Half of the real cells against the other half: the best that a prediction can look."""
COMPONENTS, PENALTY = 10, 0.1
"""Of the ridge regression: Ahlmann-Eltze, Huber and Anders, Nature Methods 2025."""


@dataclass(frozen=True)
class Known:
    """Effects that a baseline may use: those of the training perturbations."""

    delta_PG: Array
    targets: Sequence[tuple[str, ...]]
    """[P] genes that each perturbation hits."""
    contexts: Sequence[str]
    """[P]"""
    control_G: Array
    """Mean control profile, to embed genes by."""
    rows: Mapping[str, int]
    """Gene name -> its number, of measured genes."""
    vectors: Mapping[str, npt.NDArray[np.float64]] | None = None
    """What else is known of target genes (`gene_vectors`); None: their expression over the screen."""

    def without(self, number: int) -> Known:
        """The same without one perturbation and whatever hits any of its genes in any context: leave one
        out, combinations included.
        """
        hit = set(self.targets[number])
        keep = [p for p in range(len(self.targets)) if not hit & set(self.targets[p])]
        return self.only(keep)

    def only(self, keep: Sequence[int]) -> Known:
        return Known(
            self.delta_PG[list(keep)],
            [self.targets[p] for p in keep],
            [self.contexts[p] for p in keep],
            self.control_G,
            self.rows,
            self.vectors,
        )


def predict(name: str, known: Known, targets: tuple[str, ...], context: str) -> Array | None:
    """[G] effect of perturbing `targets`; None where a baseline does not say anything.

    control: none. mean_delta: the mean of all. context_mean: of those of the context. same_perturbation: the
    mean of the same targets in other contexts. nearest_neighbour: that of the training perturbation whose
    targets are most alike. ridge: linear in gene embeddings. additive: the sum of a combination's singles.
    """
    n_genes = known.delta_PG.shape[1]
    if name == "control":
        return np.zeros(n_genes)
    if not len(known.targets):
        return None
    mean_G = np.asarray(known.delta_PG.mean(axis=0))
    if name == "mean_delta":
        return mean_G
    if name == "context_mean":
        own = [p for p, other in enumerate(known.contexts) if other == context]
        return np.asarray(known.delta_PG[own].mean(axis=0)) if own else None
    if name == "same_perturbation":
        same = [p for p, genes in enumerate(known.targets) if genes == targets]
        return np.asarray(known.delta_PG[same].mean(axis=0)) if same else None
    if name == "additive":
        return _additive(known, targets, context)
    return _nearest(known, targets) if name == "nearest_neighbour" else _ridge(known, targets)


def embeddings(known: Known) -> dict[str, Array]:
    """Gene -> vector: components of expression over control and training profiles, or what was given."""
    if known.vectors is not None:
        return {gene: np.asarray(vector) for gene, vector in known.vectors.items()}
    table = _components(known)
    return {gene: table[row] for gene, row in known.rows.items()}


def _components(known: Known) -> Array:
    """[G, K] principal components of genes over the training profiles."""
    profiles_GP = (known.delta_PG + known.control_G).T
    centred = profiles_GP - profiles_GP.mean(axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    return np.asarray((left * size)[:, :COMPONENTS])


def _ridge(known: Known, targets: tuple[str, ...]) -> Array | None:
    """Y - mean = G W P^T with both sides penalised; P: rows of the perturbed genes."""
    table = embeddings(known)
    trained = [p for p, genes in enumerate(known.targets) if all(gene in table for gene in genes)]
    if len(trained) < 2 or not all(gene in table for gene in targets):
        return None
    side_GK = _components(known)
    hit_PK = np.stack([np.sum([table[gene] for gene in known.targets[p]], axis=0) for p in trained])
    centre_G = known.delta_PG[trained].mean(axis=0)
    effect_GP = (known.delta_PG[trained] - centre_G).T
    left = np.linalg.solve(side_GK.T @ side_GK + PENALTY * np.eye(side_GK.shape[1]), side_GK.T @ effect_GP)
    weights = np.linalg.solve(hit_PK.T @ hit_PK + PENALTY * np.eye(hit_PK.shape[1]), hit_PK.T @ left.T).T
    return np.asarray(centre_G + side_GK @ weights @ np.sum([table[gene] for gene in targets], axis=0))


def _nearest(known: Known, targets: tuple[str, ...]) -> Array | None:
    table = embeddings(known)
    if not all(gene in table for gene in targets):
        return None
    wanted = np.sum([table[gene] for gene in targets], axis=0)
    best, found = -np.inf, None
    for p, genes in enumerate(known.targets):
        if all(gene in table for gene in genes):
            other = np.sum([table[gene] for gene in genes], axis=0)
            size = float(np.linalg.norm(wanted) * np.linalg.norm(other))
            likeness = float(wanted @ other) / size if size > 0 else 0.0
            if likeness > best:
                best, found = likeness, known.delta_PG[p]
    return found


def _additive(known: Known, targets: tuple[str, ...], context: str) -> Array | None:
    """Only for combinations all of whose singles were trained on."""
    if len(targets) < 2:
        return None
    singles = []
    for gene in targets:
        where = [p for p, genes in enumerate(known.targets) if genes == (gene,)]
        own = [p for p in where if known.contexts[p] == context] or where
        if not own:
            return None
        singles.append(known.delta_PG[own].mean(axis=0))
    return np.asarray(np.sum(singles, axis=0))
