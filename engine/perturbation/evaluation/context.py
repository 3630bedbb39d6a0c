"""One context of a screen: its controls, what is known of it without a model, and how a contender does in it.

Legend: C cells, P perturbations, G genes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import sparse

from engine.perturbation import cell_eval, vcc2026
from engine.perturbation.differential import CountTests, Differential, LogTests, mean_of
from engine.perturbation.normalise import Scale, log_normalised
from engine.perturbation.populations import EnergyDistance, clustering_agreement
from engine.perturbation.rank_sum import Array


@dataclass(frozen=True)
class Cells:
    """Some cells on the scales that metrics are defined on."""

    logs_CG: sparse.csr_matrix
    counts_CG: sparse.csr_matrix | None
    """None where the file holds log1p values."""

    @classmethod
    def of(cls, matrix_CG: sparse.csr_matrix, scale: Scale, depth: float) -> Cells:
        if scale == "counts":
            return cls(log_normalised(matrix_CG, depth), matrix_CG)
        return cls(matrix_CG.astype(np.float32), None)

    def some(self, rows: npt.NDArray[np.int64]) -> Cells:
        return Cells(self.logs_CG[rows], None if self.counts_CG is None else self.counts_CG[rows])

    @property
    def n(self) -> int:
        return int(self.logs_CG.shape[0])


class Reference:
    """Control cells, and tests against them.

    distance_cells: cells of a group that E-distances are taken of, drawn where there are more; 0: none are.
    """

    def __init__(self, control: Cells, differential: bool, distance_cells: int = 0) -> None:
        self.control, self._distance_cells = control, distance_cells
        self.mean_G = mean_of(control.logs_CG)
        self._logs = LogTests(control.logs_CG) if differential else None
        counts_CG = control.counts_CG
        self._counts = CountTests(counts_CG) if differential and counts_CG is not None else None
        self.profile = None if counts_CG is None else vcc2026.Profile.of(counts_CG)
        self._energy = EnergyDistance(self._some(control)) if distance_cells else None

    def measured(self, cells: Cells) -> Measured:
        """What metrics need of some cells; the cells themselves may go."""
        counts_CG = cells.counts_CG
        return Measured(
            cells.n,
            mean_of(cells.logs_CG),
            self._logs.test(cells.logs_CG) if self._logs else None,
            self._counts.test(counts_CG) if self._counts and counts_CG is not None else None,
            None if counts_CG is None or self.profile is None else vcc2026.Profile.of(counts_CG),
            self._energy.of(self._some(cells)) if self._energy else None,
        )

    def _some(self, cells: Cells) -> sparse.csr_matrix:
        if cells.n <= self._distance_cells:
            return cells.logs_CG
        drawn = np.random.default_rng(0).choice(cells.n, self._distance_cells, replace=False)
        return cells.logs_CG[np.sort(drawn)]


@dataclass(frozen=True)
class Measured:
    """One perturbation on one side."""

    n: int
    mean_G: Array
    logs: Differential | None = None
    counts: Differential | None = None
    profile: vcc2026.Profile | None = None
    energy: float | None = None
    """E-distance from the control cells."""


@dataclass
class Contender:
    """Someone's predictions in one context, perturbation by perturbation, and how they score."""

    name: str
    real_control_G: Array
    control_G: Array
    """Mean control profile that its own effects are taken from."""
    targets: Mapping[str, npt.NDArray[np.int64]]
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    _pairs: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    _profiles: dict[str, tuple[vcc2026.Profile, vcc2026.Profile]] = field(default_factory=dict)
    _energies: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, perturbation: str, real: Measured, predicted: Measured, mean_G: Array) -> None:
        """mean_G: the predicted mean itself, which drawn cells only scatter around."""
        found = cell_eval.array_metrics(real.mean_G, mean_G, self.real_control_G, self.control_G)
        if real.logs is not None and predicted.logs is not None:
            found |= cell_eval.differential_metrics(real.logs, predicted.logs)
        if real.counts is not None and predicted.counts is not None:
            found |= vcc2026.differential_metrics(real.counts, predicted.counts, self.targets[perturbation])
        if real.profile is not None and predicted.profile is not None:
            self._profiles[perturbation] = (real.profile, predicted.profile)
        if real.energy is not None and predicted.energy is not None:
            self._energies[perturbation] = (real.energy, predicted.energy)
        self._pairs[perturbation] = (real.mean_G - self.real_control_G, mean_G - self.control_G)
        self.rows[perturbation] = {"n_real": real.n, "n_predicted": predicted.n, **found}

    def finish(self, reference: vcc2026.Profile | None) -> dict[str, float]:
        """Adds the metrics that need all perturbations to `rows`; those of the panel as a whole."""
        names = list(self.rows)
        if not names:
            return {}
        targets = [self.targets[name] for name in names]
        real_PG, predicted_PG = (np.stack(side) for side in zip(*self._pairs.values(), strict=True))
        for distance in cell_eval.DISTANCES:
            found = cell_eval.discrimination(real_PG, predicted_PG, targets, distance)
            self._into_rows(names, f"discrimination_score_{distance}", found)
        whole: dict[str, float] = {}
        if "de_nsig_counts_real" in self.rows[names[0]]:
            n_real, n_predicted = (
                np.array([self.rows[name][f"de_nsig_counts_{side}"] for name in names])
                for side in ("real", "pred")
            )
            whole["de_spearman_sig"] = cell_eval.significance_agreement(n_real, n_predicted)
        if len(self._energies) == len(names):
            real_P, predicted_P = (np.array(side) for side in zip(*self._energies.values(), strict=True))
            whole["pearson_edistance"] = cell_eval.pearson(real_P, predicted_P)
            # From differences too: all profiles of a side are moved alike.
            whole["clustering_agreement"] = clustering_agreement(real_PG, predicted_PG)
        if reference is not None and len(self._profiles) == len(names):
            whole |= self._count_metrics(names, reference, targets)
        return whole

    def _count_metrics(
        self, names: list[str], reference: vcc2026.Profile, targets: list[npt.NDArray[np.int64]]
    ) -> dict[str, float]:
        real = [self._profiles[name][0] for name in names]
        predicted = [self._profiles[name][1] for name in names]
        error_P, effect_P = vcc2026.squared_errors(real, predicted, reference, targets)
        self._into_rows(names, "expr_mse_unbiased_capped", error_P)
        self._into_rows(names, "expr_distance_unbiased", effect_P)
        real_PG, predicted_PG = (
            np.stack([one.bulk_G for one in side]) - reference.bulk_G for side in (real, predicted)
        )
        self._into_rows(names, "pds_cosine", vcc2026.discrimination(real_PG, predicted_PG, targets))
        if effect_P.sum() <= 0:
            return {}
        return {"expr_mse_unbiased_capped_norm": vcc2026.normalised_error(error_P, effect_P)}

    def _into_rows(self, names: list[str], metric: str, values: Array) -> None:
        for name, value in zip(names, values, strict=True):
            self.rows[name][metric] = float(value)
