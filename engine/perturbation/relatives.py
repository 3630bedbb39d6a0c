"""How much two perturbations have in common, by the gene sets of their targets: which sets matter is learned.

Of thousands of pathways few say anything about a screen. Here every set has an effect that its members share,
of a variance that is read off the screen itself: perturbations whose targets share the set should move the
same genes. The variances, at least 0 and shrunk towards it, are a regression of the products of pairs of
effects on shared memberships (moments of a random-effects model, as Haseman and Elston 1972 have it for the
traits of relatives). A plain likeness by rarity is added, for targets whose sets hold nobody else.

Legend: P, Q perturbations, G genes, S sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from engine.perturbation.gene_sets import GeneSets
from engine.perturbation.rank_sum import Array

OTHER_CONTEXT = 0.7
"""How much of an effect another context is trusted to share."""
# Groups of sets with the same perturbed members that are tried; those that promise most.
_MOST = 400


@dataclass(frozen=True)
class Hits:
    """Targets and contexts of some perturbations."""

    targets: Sequence[tuple[str, ...]]
    contexts: Sequence[str]

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Relations:
    """What `learn` found."""

    sets: GeneSets
    variance_S: Array
    """Of the effect that members of a set share, in units of a perturbation's mean square."""

    def between(self, left: Hits, right: Hits) -> Array:
        """[P, Q] products of effects to expect of shared sets."""
        genes = _genes(left, right)
        member = self.sets.members(genes)
        return _over_pairs(left, right, genes, (member * self.variance_S) @ member.T)


def plain_likeness(left: Hits, right: Hits, sets: GeneSets) -> Array:
    """[P, Q] likeness of targets by rarity of shared sets; 1 for a target itself."""
    genes = _genes(left, right)
    return _over_pairs(left, right, genes, sets.likeness(genes, genes))


def learn(away_PG: Array, hits: Hits, sets: GeneSets, penalty: float) -> Relations:
    """Relations that explain effects `away_PG` (differences from their mean). penalty: pairs of perturbations
    that count as much as the wish for a variance of 0.
    """
    variance_S = np.zeros(len(sets.sizes))
    genes = sorted({gene for targets in hits.targets for gene in targets})
    counts_PS = _counts(hits, genes) @ sets.members(genes)
    shared = np.flatnonzero((counts_PS > 0).sum(axis=0) >= 2)
    mean_square = float((away_PG**2).mean()) if away_PG.size else 0.0
    if len(shared) and mean_square > 0:
        alike_PP = away_PG @ away_PG.T / (away_PG.shape[1] * mean_square)
        # Sets with the same perturbed members are one to the regression.
        groups_PS, group_S = np.unique(counts_PS[:, shared], axis=1, return_inverse=True)
        found = _regression(groups_PS, alike_PP, np.array(hits.contexts, dtype=object), penalty)
        group_S = group_S.ravel()
        variance_S[shared] = found[group_S] / np.bincount(group_S)[group_S]
    return Relations(sets, variance_S)


def _regression(counts_PS: Array, alike_PP: Array, contexts_P: np.ndarray, penalty: float) -> Array:
    """[S] least squares with variances of at least 0, from sums over pairs within a context: pairs themselves
    are never written out.
    """
    n = counts_PS.shape[1]
    square_SS, product_S = np.zeros((n, n)), np.zeros(n)
    for context in np.unique(contexts_P):
        mine = np.flatnonzero(contexts_P == context)
        own_PS, own_PP = counts_PS[mine], alike_PP[np.ix_(mine, mine)]
        square_SS += ((own_PS.T @ own_PS) ** 2 - (own_PS**2).T @ own_PS**2) / 2
        product_S += ((own_PP @ own_PS * own_PS).sum(axis=0) - np.diag(own_PP) @ own_PS**2) / 2
    promise_S = product_S / np.sqrt(np.diag(square_SS) + penalty)
    tried = np.sort(np.argsort(-promise_S, kind="stable")[:_MOST])
    lower = np.linalg.cholesky(square_SS[np.ix_(tried, tried)] + penalty * np.eye(len(tried)))
    found = np.zeros(n)
    found[tried], _ = nnls(lower.T, np.linalg.solve(lower, product_S[tried]), maxiter=50 * len(tried))
    return found


def _genes(left: Hits, right: Hits) -> list[str]:
    return sorted({gene for targets in (*left.targets, *right.targets) for gene in targets})


def _over_pairs(left: Hits, right: Hits, genes: Sequence[str], table: Array) -> Array:
    """Sums over pairs of targets, so that a combination is as like a single as its part is."""
    same = np.array(left.contexts, dtype=object)[:, None] == np.array(right.contexts, dtype=object)
    found: Array = _counts(left, genes) @ table @ _counts(right, genes).T
    return found * np.where(same, 1.0, OTHER_CONTEXT)


def _counts(hits: Hits, genes: Sequence[str]) -> Array:
    """[P, genes] 1 where a perturbation hits a gene."""
    number = {gene: place for place, gene in enumerate(genes)}
    found = np.zeros((len(hits), len(genes)))
    for row, targets in enumerate(hits.targets):
        found[row, [number[gene] for gene in targets]] = 1.0
    return found
