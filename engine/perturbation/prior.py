"""A closed-form guess of an effect: what a trained model starts from and must improve on.

With tens of training perturbations most of what can be known of a new one is the mean effect (shrunk where
perturbations disagree), what perturbations of related genes did, and that a perturbed gene's own expression
falls. The three are added here; their weights are chosen by leaving training targets out.

Legend: P training perturbations, G genes, Q perturbations asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from engine.perturbation.cell_eval import pearson
from engine.perturbation.gene_sets import GeneSets
from engine.perturbation.rank_sum import Array

# Weights tried: of the noise in the kernel, of disagreement in the mean, of the mean, of relatives.
NOISE, DISAGREEMENT = (0.1, 0.3, 1.0), (1.0, 4.0, 16.0)
MEAN, RELATIVES = (0.25, 0.5, 0.75, 1.0), (0.0, 0.5, 0.75, 1.0)
FOLDS = 10
CELLS = 100.0
"""A perturbation of so many cells counts as noisy as the kernel's noise alone."""
OTHER_CONTEXT = 0.7
"""How much of an effect another context is trusted to share."""
# A gene below this mean (log1p of 10,000 counts) has too little to fall from to say how far it falls.
_EXPRESSED = 0.3


@dataclass(frozen=True)
class Screened:
    """Effects that were measured."""

    delta_PG: Array
    targets: Sequence[tuple[str, ...]]
    contexts: Sequence[str]
    n_cells: npt.NDArray[np.int64]
    """[P]"""

    def only(self, rows: Sequence[int]) -> Screened:
        return Screened(
            self.delta_PG[list(rows)],
            [self.targets[p] for p in rows],
            [self.contexts[p] for p in rows],
            self.n_cells[list(rows)],
        )


@dataclass(frozen=True)
class Weights:
    """What `fit` chose."""

    noise: float = 0.3
    disagreement: float = 4.0
    mean: float = 0.7
    relatives: float = 1.0


@dataclass(frozen=True)
class ResponsePrior:
    """Fitted; `fit`."""

    screened: Screened
    controls: Mapping[str, Array]
    """Context -> mean control profile [G]."""
    rows: Mapping[str, int]
    """Measured gene -> its number."""
    sets: GeneSets
    weights: Weights
    error_G: Array
    """Root mean squared error of a gene on targets left out."""

    def predict(self, targets: Sequence[tuple[str, ...]], contexts: Sequence[str]) -> Array:
        """delta_QG."""
        parts = _parts(self.screened, self.rows, self.sets, targets, contexts, self.weights)
        mean_G, relatives_QG = parts
        delta_QG = self.weights.mean * mean_G + self.weights.relatives * relatives_QG
        return _with_own(delta_QG, self.screened, self.controls, self.rows, targets, contexts)


def fit(
    screened: Screened, controls: Mapping[str, Array], rows: Mapping[str, int], sets: GeneSets
) -> ResponsePrior:
    """The prior with weights chosen by leaving targets out: least relative error and most correlation."""
    folds = _folds(screened.targets)
    best, weights, best_QG = np.inf, Weights(), np.zeros_like(screened.delta_PG)
    found = {choice: np.zeros_like(screened.delta_PG) for choice in itertools.product(MEAN, RELATIVES)}
    for noise, disagreement in itertools.product(NOISE, DISAGREEMENT):
        tried = Weights(noise, disagreement)
        for fold in folds:
            known = screened.only(_apart(screened.targets, fold))
            asked = screened.only(fold)
            mean_G, relatives_QG = _parts(known, rows, sets, asked.targets, asked.contexts, tried)
            for (mean, relatives), delta_PG in found.items():
                guess_QG = mean * mean_G + relatives * relatives_QG
                delta_PG[fold] = _with_own(guess_QG, known, controls, rows, asked.targets, asked.contexts)
        for (mean, relatives), delta_PG in found.items():
            loss = misfit(delta_PG, screened.delta_PG)
            if loss < best:
                best, best_QG = loss, delta_PG.copy()
                weights = replace(tried, mean=mean, relatives=relatives)
    error_G = np.sqrt(np.mean((best_QG - screened.delta_PG) ** 2, axis=0))
    return ResponsePrior(screened, controls, rows, sets, weights, error_G)


def guessed_by_others(prior: ResponsePrior) -> Array:
    """delta_PG of every training perturbation by the others: what a new one will get, for training on."""
    found = np.zeros_like(prior.screened.delta_PG)
    for fold in _folds(prior.screened.targets):
        known = prior.screened.only(_apart(prior.screened.targets, fold))
        asked = prior.screened.only(fold)
        found[fold] = replace(prior, screened=known).predict(asked.targets, asked.contexts)
    return found


def _parts(
    known: Screened,
    rows: Mapping[str, int],
    sets: GeneSets,
    targets: Sequence[tuple[str, ...]],
    contexts: Sequence[str],
    weights: Weights,
) -> tuple[Array, Array]:
    """(mean effect [G], shrunk where perturbations disagree; what relatives add to it [Q, G])."""
    n_genes = known.delta_PG.shape[1]
    if not len(known.targets):
        return np.zeros(n_genes), np.zeros((len(targets), n_genes))
    # A target's own gene falls for a reason that is nobody else's.
    others_PG = np.ones_like(known.delta_PG)
    for p, genes in enumerate(known.targets):
        others_PG[p, [rows[gene] for gene in genes if gene in rows]] = 0
    counted_G = np.maximum(others_PG.sum(axis=0), 1)
    mean_G = (others_PG * known.delta_PG).sum(axis=0) / counted_G
    away_PG = others_PG * (known.delta_PG - mean_G)
    variance_G = (away_PG**2).sum(axis=0) / np.maximum(counted_G - 1, 1)
    square_G = mean_G**2
    mean_G = mean_G * square_G / (square_G + weights.disagreement * variance_G / counted_G + 1e-12)
    away_PG = others_PG * (known.delta_PG - mean_G)
    likeness_PP = _likeness(known.targets, known.contexts, known.targets, known.contexts, sets)
    noise_P = weights.noise * (1 + CELLS / np.maximum(known.n_cells, 1))
    dual_PG = np.linalg.solve(likeness_PP + np.diag(noise_P), away_PG)
    return mean_G, _likeness(targets, contexts, known.targets, known.contexts, sets) @ dual_PG


def _likeness(
    left: Sequence[tuple[str, ...]],
    left_contexts: Sequence[str],
    right: Sequence[tuple[str, ...]],
    right_contexts: Sequence[str],
    sets: GeneSets,
) -> Array:
    """Sums over pairs of targets, so that a combination is as like a single as its part is."""
    genes = sorted({gene for targets in (*left, *right) for gene in targets})
    number = {gene: place for place, gene in enumerate(genes)}
    table = sets.likeness(genes, genes)
    sides = []
    for side in (left, right):
        hits = np.zeros((len(side), len(genes)))
        for row, targets in enumerate(side):
            hits[row, [number[gene] for gene in targets]] = 1.0
        sides.append(hits)
    same = np.array(left_contexts, dtype=object)[:, None] == np.array(right_contexts, dtype=object)[None, :]
    return (sides[0] @ table @ sides[1].T) * np.where(same, 1.0, OTHER_CONTEXT)


def _with_own(
    delta_QG: Array,
    known: Screened,
    controls: Mapping[str, Array],
    rows: Mapping[str, int],
    targets: Sequence[tuple[str, ...]],
    contexts: Sequence[str],
) -> Array:
    """The same with each measured target moved by the share of its expression that targets lose (or win)."""
    shares = [
        known.delta_PG[p, rows[gene]] / controls[known.contexts[p]][rows[gene]]
        for p, genes in enumerate(known.targets)
        for gene in genes
        if gene in rows and controls[known.contexts[p]][rows[gene]] > _EXPRESSED
    ]
    if shares:
        for q, genes in enumerate(targets):
            for gene in genes:
                if gene in rows:
                    delta_QG[q, rows[gene]] = np.median(shares) * controls[contexts[q]][rows[gene]]
    return delta_QG


def misfit(guess_PG: Array, delta_PG: Array) -> float:
    """What is chosen by: error relative to no change, less correlation, both averaged over perturbations."""
    error = np.abs(guess_PG - delta_PG).mean() / max(float(np.abs(delta_PG).mean()), 1e-12)
    agreement = [pearson(guess, delta) for guess, delta in zip(guess_PG, delta_PG, strict=True)]
    return float(3 * error - np.mean(np.nan_to_num(agreement)))


def _apart(targets: Sequence[tuple[str, ...]], fold: Sequence[int]) -> list[int]:
    """Perturbations that share no target with those of a fold."""
    hit = {gene for p in fold for gene in targets[p]}
    return [p for p, genes in enumerate(targets) if not hit & set(genes)]


def _folds(targets: Sequence[tuple[str, ...]]) -> list[list[int]]:
    """Perturbations that are left out together; up to FOLDS x 5 targets are left out one by one."""
    names = sorted({gene for genes in targets for gene in genes})
    n = len(names) if len(names) <= 5 * FOLDS else FOLDS
    of = {gene: place % n for place, gene in enumerate(names)}
    folds: list[list[int]] = [[] for _ in range(n)]
    for p, genes in enumerate(targets):
        folds[of[genes[0]]].append(p)
    return [fold for fold in folds if fold]
