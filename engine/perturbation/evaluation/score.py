"""Predictions and baselines of every context, streamed perturbation by perturbation.

Legend: C cells, G genes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.perturbation import baselines
from engine.perturbation.baselines import REPLICATE, Known
from engine.perturbation.differential import mean_of
from engine.perturbation.drawn_cells import DrawnCells
from engine.perturbation.evaluation.context import Cells, Contender, Measured, Reference
from engine.perturbation.evaluation.options import EvaluationOptions
from engine.perturbation.rank_sum import Array
from engine.perturbation.screen import Group, Screen
from storage.errors import InputError

PREDICTION = "prediction"
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Scored:
    """rows: one a (context, perturbation, contender). whole: metrics of (context, contender) as a whole.
    effects: (context, perturbation) -> real and predicted effect [2, G], for plots.
    """

    rows: pd.DataFrame
    whole: dict[tuple[str, str], dict[str, float]]
    effects: dict[Group, npt.NDArray[np.float32]]
    known: str
    """What baselines knew."""
    warnings: list[str]


@dataclass(frozen=True)
class Pair:
    """A real screen and a predicted one over the same genes."""

    real: Screen
    predicted: Screen
    order: npt.NDArray[np.int64]
    """Column of the predicted screen of each gene of the real one."""
    groups: list[Group]
    """That are scored."""

    @classmethod
    def of(cls, real: Screen, predicted: Screen) -> Pair:
        """Raises InputError when genes or perturbations do not fit together."""
        column = {gene: number for number, gene in enumerate(predicted.genes)}
        missing = [gene for gene in real.genes if gene not in column]
        if missing or len(column) != len(real.genes):
            raise InputError(
                f"{predicted.where}: has {len(column):,} genes, {real.where} {len(real.genes):,}; "
                f"{len(missing):,} of them are not predicted"
                + (f", {missing[0]} for one" if missing else "")
                + ". Both must hold the same genes; their order is free."
            )
        wanted = [group for group in predicted.groups if group[1] != predicted.control]
        unknown = [group for group in wanted if group not in real.groups]
        if unknown or not wanted:
            raise InputError(
                f"{predicted.where}: predicts {' in '.join(reversed(unknown[0])) if unknown else 'nothing'}, "
                f"which {real.where} does not hold ({len(unknown)} of {len(wanted)}); check the columns of "
                "perturbation and context."
            )
        order = np.array([column[gene] for gene in real.genes], dtype=np.int64)
        return cls(real, predicted, order, wanted)


def score(pair: Pair, options: EvaluationOptions, report: Progress) -> Scored:
    """Score the prediction and the baselines. Raises InputError, e.g. for a context without control cells."""
    means = _means(pair.real, options)
    control = pair.real.control
    left_out = sorted(group for group in set(means) - set(pair.groups) if group[1] != control)
    loo = len({group[1] for group in left_out}) < 2
    rows, effects, whole, warnings = [], {}, {}, []
    done = 0
    for context in sorted({group[0] for group in pair.groups}):
        groups = [group for group in pair.groups if group[0] == context]
        if (context, control) not in means:
            raise InputError(f"{pair.real.where}: no control cells in context {context!r}.")
        held_in = [
            group
            for group in means
            if group[1] != control and (loo or group in left_out) and (group[0], control) in means
        ]
        known = _known(pair.real, means, held_in, context)
        arena = _Arena(pair, context, groups, known, held_in if loo else None, options)
        for group, real, predicted in arena.stream():
            effects[group] = arena.add(group, real, predicted)
            done += 1
            report(done, len(pair.groups), "perturbations")
        for name, contender in arena.contenders.items():
            whole[context, name] = contender.finish(arena.reference.profile)
            rows += [
                {"context": context, "perturbation": label, "contender": name, **values}
                for label, values in contender.rows.items()
            ]
    if left_out:
        warnings.append(f"{len(left_out)} real perturbations have no prediction; baselines know them")
    if not pair.predicted.has_controls:
        warnings.append(f"{pair.predicted.where}: no control cells; effects are taken from the real ones")
    stands = "leave one target out" if loo else "the real perturbations without a prediction"
    return Scored(pd.DataFrame(rows), whole, effects, stands, warnings)


class _Arena:
    """The contenders of one context."""

    def __init__(
        self,
        pair: Pair,
        context: str,
        groups: Sequence[Group],
        known: Known,
        places: Sequence[Group] | None,
        options: EvaluationOptions,
    ) -> None:
        """places: the group of each known perturbation, when those that are scored are among them."""
        self.pair, self.groups, self.options, self.context = pair, groups, options, context
        self._known, self._places = known, None if places is None else list(places)
        self.reference = Reference(
            self._controls(pair.real, None), options.differential, options.distance_cells
        )
        self.own = self.reference
        if (context, pair.predicted.control) in pair.predicted.groups:
            self.own = Reference(
                self._controls(pair.predicted, pair.order), options.differential, options.distance_cells
            )
        self._rng = np.random.default_rng(options.seed)
        counts_CG = self.reference.control.counts_CG
        self._drawn = None if counts_CG is None else DrawnCells(counts_CG, options.depth)
        targets = {group[1]: pair.real.target_rows(group[1]) for group in groups}
        names = [PREDICTION, *options.baselines]
        self.contenders = {
            name: Contender(
                name,
                self.reference.mean_G,
                self.own.mean_G if name == PREDICTION else self.reference.mean_G,
                targets,
            )
            for name in names
        }

    def stream(self) -> Iterator[tuple[Group, Cells, Cells]]:
        """(group, real cells, predicted cells) of every scored perturbation."""
        predicted = self.pair.predicted.stream(self.groups)
        for (group, real_CG), (_, matrix_CG) in zip(
            self.pair.real.stream(self.groups), predicted, strict=True
        ):
            yield (
                group,
                Cells.of(real_CG, self.pair.real.scale, self.options.depth),
                Cells.of(matrix_CG[:, self.pair.order], self.pair.predicted.scale, self.options.depth),
            )

    def add(self, group: Group, real: Cells, predicted: Cells) -> npt.NDArray[np.float32]:
        """Every contender's prediction of one perturbation; real and predicted effect [2, G]."""
        label = group[1]
        truth = self.reference.measured(real)
        # vcc2026 takes effects from the real control, cell-eval from the prediction's own.
        guess = self.own.measured(predicted)
        if self.own is not self.reference and guess.counts is not None:
            again = self.reference.measured(predicted)
            guess = replace(guess, counts=again.counts, profile=again.profile)
        self.contenders[PREDICTION].add(label, truth, guess, guess.mean_G)
        known = self._known if self._places is None else self._known.without(self._places.index(group))
        for name in self.options.baselines:
            if name == REPLICATE:
                self._replicate(label, real)
                continue
            delta_G = baselines.predict(name, known, self.pair.real.targets(label), self.context)
            if delta_G is not None:
                mean_G = np.maximum(self.reference.mean_G + delta_G, 0)
                self.contenders[name].add(label, truth, self._of_mean(mean_G, truth.n), mean_G)
        return np.stack([truth.mean_G - self.reference.mean_G, guess.mean_G - self.own.mean_G]).astype(
            np.float32
        )

    def _of_mean(self, mean_G: Array, n: int) -> Measured:
        """A mean as cells of its own, where there are counts to draw them from."""
        if self._drawn is None or not (self.options.differential or self.options.distance_cells):
            return Measured(n, mean_G)
        drawn_CG = self._drawn.draw(mean_G, n, self._rng)
        return self.reference.measured(Cells.of(drawn_CG, "counts", self.options.depth))

    def _replicate(self, label: str, real: Cells) -> None:
        if real.n < 4:
            return
        order = self._rng.permutation(real.n)
        halves = [self.reference.measured(real.some(part)) for part in np.array_split(order, 2)]
        self.contenders[REPLICATE].add(label, halves[0], halves[1], halves[1].mean_G)

    def _controls(self, screen: Screen, order: npt.NDArray[np.int64] | None) -> Cells:
        ((_, matrix_CG),) = screen.stream([(self.context, screen.control)])
        columns = matrix_CG if order is None else matrix_CG[:, order]
        return Cells.of(columns, screen.scale, self.options.depth)


def _means(screen: Screen, options: EvaluationOptions) -> dict[Group, Array]:
    return {
        group: mean_of(Cells.of(matrix_CG, screen.scale, options.depth).logs_CG)
        for group, matrix_CG in screen.stream(list(screen.groups))
    }


def _known(screen: Screen, means: Mapping[Group, Array], groups: Sequence[Group], context: str) -> Known:
    """Effects of some groups, each from the control of its own context."""
    deltas = [means[group] - means[group[0], screen.control] for group in groups]
    return Known(
        np.stack(deltas) if deltas else np.zeros((0, len(screen.genes))),
        [screen.targets(group[1]) for group in groups],
        [group[0] for group in groups],
        means[context, screen.control],
        {gene: number for number, gene in enumerate(screen.genes)},
    )
