"""The metrics of cell-eval 0.8 (Virtual Cell Challenge 2025), on log1p-normalised expression.

Source: github.com/ArcInstitute/cell-eval 0.8.2, whose tables are the goldens of the tests. `populations` has
`pearson_edistance` and `clustering_agreement`, which take all pairs of cells and a Leiden clustering.

Legend: P perturbations, G genes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score, roc_auc_score

from engine.perturbation.differential import Differential
from engine.perturbation.rank_sum import Array

TOPS = (None, 50, 100, 200, 500)
DISTANCES: dict[str, Literal["cityblock", "euclidean", "cosine"]] = {
    "l1": "cityblock",
    "l2": "euclidean",
    "cosine": "cosine",
}
BEST_IS_ZERO = frozenset({"mse", "mae", "mse_delta", "mae_delta"})
"""Of the others the best value is 1, but for the counts `de_nsig_counts_*`, which are not scored."""
# Smallest adjusted p-value that areas under curves tell apart.
_LEAST_FDR = 1e-10


def array_metrics(
    real_G: Array, predicted_G: Array, real_control_G: Array, predicted_control_G: Array
) -> dict[str, float]:
    """Of one perturbation's mean profiles, each side's effect taken from its own control."""
    error_G = predicted_G - real_G
    predicted_delta_G, real_delta_G = predicted_G - predicted_control_G, real_G - real_control_G
    error_delta_G = predicted_delta_G - real_delta_G
    return {
        "pearson_delta": pearson(predicted_delta_G, real_delta_G),
        "mse": float(np.mean(error_G**2)),
        "mae": float(np.mean(np.abs(error_G))),
        "mse_delta": float(np.mean(error_delta_G**2)),
        "mae_delta": float(np.mean(np.abs(error_delta_G))),
    }


def pearson(x_G: Array, y_G: Array) -> float:
    """NaN where one side does not vary."""
    x_G, y_G = x_G - x_G.mean(), y_G - y_G.mean()
    size = float(np.sqrt((x_G @ x_G) * (y_G @ y_G)))
    return float(x_G @ y_G) / size if size > 0 else float("nan")


def discrimination(
    real_delta_PG: Array, predicted_delta_PG: Array, targets: Sequence[npt.NDArray[np.int64]], distance: str
) -> Array:
    """[P] 1 - rank / P of the own real effect among all, by distance to the predicted one; 1 is best.

    targets: numbers of the genes of each perturbation, left out of its distances. Ties go by position, so
    that a prediction without effect is not at an advantage or a loss on average.
    """
    n = len(real_delta_PG)
    found = np.empty(n)
    for number, genes in enumerate(targets):
        kept = np.delete(np.arange(real_delta_PG.shape[1]), genes)
        query_1G = predicted_delta_PG[number : number + 1, kept]
        away = cdist(real_delta_PG[:, kept], query_1G, DISTANCES[distance])
        # A vector of zeros has no direction; scikit-learn, which cell-eval uses, puts it at distance 1.
        order = np.argsort(np.nan_to_num(away.ravel(), nan=1.0), kind="stable")
        found[number] = 1 - int(np.flatnonzero(order == number)[0]) / n
    return found


def differential_metrics(real: Differential, predicted: Differential) -> dict[str, float]:
    """Of one perturbation. `overlap_at_N` is the challenge's DES."""
    ranked_real, ranked_predicted = _ranked(real), _ranked(predicted)
    found: dict[str, float] = {}
    for top in TOPS:
        name = "N" if top is None else str(top)
        found[f"overlap_at_{name}"] = _overlap(ranked_real, ranked_predicted, len(ranked_real), top)
        found[f"precision_at_{name}"] = _overlap(ranked_real, ranked_predicted, len(ranked_predicted), top)
    chosen = real.significant
    change, other = real.log2_fold_change[chosen], predicted.log2_fold_change[chosen]
    both = chosen & predicted.significant
    return found | {
        "de_direction_match": _mean(np.sign(change) == np.sign(other)),
        "de_spearman_lfc_sig": _spearman(change, other),
        "de_sig_genes_recall": float(both.sum() / chosen.sum()) if chosen.any() else float("nan"),
        "de_nsig_counts_real": float(chosen.sum()),
        "de_nsig_counts_pred": float(predicted.significant.sum()),
        **_areas(chosen, predicted.fdr),
    }


def significance_agreement(n_real: Array, n_predicted: Array) -> float:
    """`de_spearman_sig`: Spearman over perturbations of the numbers of significant genes."""
    some = n_real > 0
    return 1.0 if not some.any() else _spearman(n_real[some], n_predicted[some])


def scores(means: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, float]:
    """How much of the way from the baseline to the best each metric goes, at least 0, and `avg_score`."""
    found = {}
    for name in sorted(set(means) & set(baseline)):
        if name.startswith("de_nsig_counts"):
            continue
        user, base = means[name], baseline[name]
        best_zero = name in BEST_IS_ZERO
        room = base if best_zero else 1 - base
        gain = base - user if best_zero else user - base
        value = gain / room if room else float("nan")
        found[name] = max(value, 0.0) if np.isfinite(value) else 0.0
    return found | {"avg_score": float(np.mean(list(found.values()))) if found else 0.0}


def challenge_score(means: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """VCC 2025's overall score: the mean of the scaled PDS, DES and MAE."""
    scaled = scores(means, baseline)
    return float(np.mean([scaled[name] for name in ("discrimination_score_l1", "overlap_at_N", "mae")]))


def _ranked(table: Differential) -> npt.NDArray[np.int64]:
    """Significant genes, the largest absolute fold change first."""
    genes = table.genes[table.significant]
    return genes[np.argsort(-np.abs(table.log2_fold_change[table.significant]), kind="stable")]


def _overlap(real: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], n: int, top: int | None) -> float:
    k = min(top or n, n)
    return len(np.intersect1d(real[:k], predicted[:k])) / k if k else 0.0


def _mean(values: npt.NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _spearman(x: Array, y: Array) -> float:
    return pearson(stats.rankdata(x), stats.rankdata(y)) if len(x) > 1 else float("nan")


def _areas(labels: npt.NDArray[np.bool_], fdr: Array) -> dict[str, float]:
    if not 0 < labels.sum() < len(labels):
        return {"pr_auc": float("nan"), "roc_auc": float("nan")}
    confidence = -np.log10(np.clip(fdr, _LEAST_FDR, 1.0))
    return {
        "pr_auc": float(average_precision_score(labels, confidence)),
        "roc_auc": float(roc_auc_score(labels, confidence)),
    }
