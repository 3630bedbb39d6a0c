"""A closed-form guess of an effect: what a trained model starts from and must improve on.

With tens of training perturbations most of what can be known of a new one is the mean effect (shrunk where
perturbations disagree), what perturbations of related genes did (`relatives`), and that a perturbed gene's
own expression falls. The three are added here; their weights are chosen by leaving training targets out.

Legend: P training perturbations, G genes, Q perturbations asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from engine.perturbation.gene_sets import GeneSets
from engine.perturbation.rank_sum import Array
from engine.perturbation.relatives import Hits, Relations, learn, plain_likeness

# Weights tried: of disagreement in the mean, of the wish that sets share nothing, of likeness by rarity, of
# noise; and then of the mean and of relatives.
DISAGREEMENT, PENALTY, PLAIN, NOISE = (
    (4.0, 16.0, 64.0),
    (10.0, 30.0, 100.0),
    (0.1, 0.3, 1.0),
    (0.05, 0.15, 0.5),
)
MEAN, RELATIVES = (0.25, 0.5, 0.75, 1.0), (0.0, 0.5, 0.75, 1.0)
FOLDS = 10
CELLS = 100.0
"""A perturbation of so many cells is twice as noisy as one of very many."""
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

    @property
    def hits(self) -> Hits:
        return Hits(self.targets, self.contexts)

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

    disagreement: float = 16.0
    penalty: float = 30.0
    plain: float = 0.3
    noise: float = 0.15
    mean: float = 0.75
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
        centred, relations, dual_PG = self._response
        between = Kernel.of(relations, Hits(targets, contexts), centred.hits)
        relatives_QG = between.weighted(self.weights.plain) @ dual_PG
        delta_QG = self.weights.mean * centred.mean_G + self.weights.relatives * relatives_QG
        return _with_own(
            delta_QG,
            own_share(self.screened, self.controls, self.rows),
            self.controls,
            self.rows,
            targets,
            contexts,
        )

    @cached_property
    def _response(self) -> tuple[Centred, Relations, Array]:
        """What the training perturbations say of others."""
        centred = Centred.of(self.screened, self.rows, self.weights.disagreement)
        relations = learn(centred.away_PG, centred.hits, self.sets, self.weights.penalty)
        return (
            centred,
            relations,
            centred.dual(Kernel.of(relations, centred.hits, centred.hits), self.weights),
        )


def fit(
    screened: Screened, controls: Mapping[str, Array], rows: Mapping[str, int], sets: GeneSets
) -> ResponsePrior:
    """The prior with weights chosen by leaving targets out: least relative error and most correlation."""
    best, best_weights, best_PG = np.inf, Weights(), np.zeros_like(screened.delta_PG)
    for tried, guess_PG in _guesses(screened, controls, rows, sets):
        loss = misfit(guess_PG, screened.delta_PG)
        if loss < best:
            best, best_weights, best_PG = loss, tried, guess_PG
    error_G = np.sqrt(np.mean((best_PG - screened.delta_PG) ** 2, axis=0))
    return ResponsePrior(screened, controls, rows, sets, best_weights, error_G)


def _guesses(
    screened: Screened, controls: Mapping[str, Array], rows: Mapping[str, int], sets: GeneSets
) -> Iterator[tuple[Weights, Array]]:
    """Every choice of weights, and all perturbations guessed with it by those that share no target."""
    folds = _folds(screened.targets)
    asked = [screened.only(fold) for fold in folds]
    known = [screened.only(_apart(screened.targets, fold)) for fold in folds]
    shares = [own_share(one, controls, rows) for one in known]
    # Without sets only a target itself is like a target, in other contexts and combinations.
    penalties, plains = (PENALTY, PLAIN) if sets.sizes else (PENALTY[:1], PLAIN[-1:])
    within = [plain_likeness(one.hits, one.hits, sets) for one in known]
    across = [plain_likeness(one.hits, other.hits, sets) for one, other in zip(asked, known, strict=True)]
    for disagreement, penalty in itertools.product(DISAGREEMENT, penalties):
        centred = [Centred.of(one, rows, disagreement) for one in known]
        learned = [learn(one.away_PG, one.hits, sets, penalty) for one in centred]
        inside = [
            Kernel(found.between(one.hits, one.hits), plain_PP)
            for found, one, plain_PP in zip(learned, known, within, strict=True)
        ]
        between = [
            Kernel(found.between(one.hits, other.hits), plain_QP)
            for found, one, other, plain_QP in zip(learned, asked, known, across, strict=True)
        ]
        for plain, noise in itertools.product(plains, NOISE):
            tried = Weights(disagreement, penalty, plain, noise)
            relatives = [
                kernel.weighted(plain) @ one.dual(own, tried)
                for kernel, one, own in zip(between, centred, inside, strict=True)
            ]
            for mean, weight in itertools.product(MEAN, RELATIVES):
                guess_PG = np.zeros_like(screened.delta_PG)
                for fold, told, added_QG in zip(folds, centred, relatives, strict=True):
                    guess_PG[fold] = mean * told.mean_G + weight * added_QG
                for fold, share, one in zip(folds, shares, asked, strict=True):
                    guess_PG[fold] = _with_own(
                        guess_PG[fold], share, controls, rows, one.targets, one.contexts
                    )
                yield replace(tried, mean=mean, relatives=weight), guess_PG


def guessed_by_others(prior: ResponsePrior) -> Array:
    """delta_PG of every training perturbation by the others: what a new one will get, for training on."""
    found = np.zeros_like(prior.screened.delta_PG)
    for fold in _folds(prior.screened.targets):
        known = prior.screened.only(_apart(prior.screened.targets, fold))
        asked = prior.screened.only(fold)
        found[fold] = replace(prior, screened=known).predict(asked.targets, asked.contexts)
    return found


@dataclass(frozen=True)
class Kernel:
    """How alike perturbations are: by what sets of a screen share, and by rarity of shared sets."""

    learned: Array
    plain: Array

    @classmethod
    def of(cls, relations: Relations, left: Hits, right: Hits) -> Kernel:
        return cls(relations.between(left, right), plain_likeness(left, right, relations.sets))

    def weighted(self, plain: float) -> Array:
        return self.learned + plain * self.plain


@dataclass(frozen=True)
class Centred:
    """Effects as differences from their mean. A target's own gene is left out: it falls for a reason that is
    nobody else's.
    """

    hits: Hits
    n_cells: npt.NDArray[np.int64]
    mean_G: Array
    """Shrunk where perturbations disagree."""
    away_PG: Array

    @classmethod
    def of(cls, known: Screened, rows: Mapping[str, int], disagreement: float) -> Centred:
        others_PG = np.ones_like(known.delta_PG)
        for p, genes in enumerate(known.targets):
            others_PG[p, [rows[gene] for gene in genes if gene in rows]] = 0
        counted_G = np.maximum(others_PG.sum(axis=0), 1)
        mean_G = (others_PG * known.delta_PG).sum(axis=0) / counted_G
        variance_G = (others_PG * (known.delta_PG - mean_G) ** 2).sum(axis=0) / np.maximum(counted_G - 1, 1)
        square_G = mean_G**2
        mean_G = mean_G * square_G / (square_G + disagreement * variance_G / counted_G + 1e-12)
        return cls(known.hits, known.n_cells, mean_G, others_PG * (known.delta_PG - mean_G))

    def dual(self, kernel: Kernel, weights: Weights) -> Array:
        """[P, G] weights of known perturbations, to be summed by likeness."""
        noise_P = weights.noise * (1 + CELLS / np.maximum(self.n_cells, 1))
        covariance_PP = kernel.weighted(weights.plain) + np.diag(noise_P)
        return np.asarray(np.linalg.solve(covariance_PP, self.away_PG), dtype=np.float64)


def own_share(known: Screened, controls: Mapping[str, Array], rows: Mapping[str, int]) -> float | None:
    """The share of its expression that a measured target loses (or wins); None where that was never seen."""
    shares = [
        known.delta_PG[p, rows[gene]] / controls[known.contexts[p]][rows[gene]]
        for p, genes in enumerate(known.targets)
        for gene in genes
        if gene in rows and controls[known.contexts[p]][rows[gene]] > _EXPRESSED
    ]
    return float(np.median(shares)) if shares else None


def _with_own(
    delta_QG: Array,
    share: float | None,
    controls: Mapping[str, Array],
    rows: Mapping[str, int],
    targets: Sequence[tuple[str, ...]],
    contexts: Sequence[str],
) -> Array:
    """The same with each measured target moved by its share."""
    if share is not None:
        for q, genes in enumerate(targets):
            for gene in genes:
                if gene in rows:
                    delta_QG[q, rows[gene]] = share * controls[contexts[q]][rows[gene]]
    return delta_QG


def misfit(guess_PG: Array, delta_PG: Array) -> float:
    """What is chosen by: error relative to no change, less correlation, both averaged over perturbations."""
    error = np.abs(guess_PG - delta_PG).mean() / max(float(np.abs(delta_PG).mean()), 1e-12)
    left_PG = guess_PG - guess_PG.mean(axis=1, keepdims=True)
    right_PG = delta_PG - delta_PG.mean(axis=1, keepdims=True)
    size_P = np.sqrt((left_PG**2).sum(axis=1) * (right_PG**2).sum(axis=1))
    agreement_P = (left_PG * right_PG).sum(axis=1) / np.where(size_P > 0, size_P, 1.0)
    return float(3 * error - agreement_P.mean())


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
