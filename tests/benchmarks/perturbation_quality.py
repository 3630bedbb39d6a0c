"""How well a predictor does on targets it never saw, beside everything that needs no training (Papalexi)."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from engine.perturbation.baselines import REPLICATE
from engine.training.recipes.perturbation.measured import ScreenSource
from storage.ingest import IngestOptions, ingest
from tests.benchmarks import report
from tests.benchmarks.perturbations.held_out import MODEL, PRIOR, Protocol, predictions, scores

ABOUT = """Papalexi 2021 ECCITE-seq (THP-1, 299 genes): 25 knocked-out targets in 5 folds; each target is
predicted by models trained on the targets of the other folds, with pathway sets (Reactome, Hallmark) as what
is known of a target. Model: mean over seeds; prior: its closed-form start alone. Baselines know the same
training targets. Effects are differences of mean log1p expression (10,000 counts a cell) from the control.
DES: genes tested on cells drawn around the predicted mean, as many as the real ones. replicate: half of the
real cells against the other half. Intervals: 95 %, targets drawn again 2,000 times."""
SHARED = Path(os.environ.get("SYNCYTIUM_SHARED", report.REPOSITORY.parent / "shared"))
SETS = ("golden/validation_db/reactome/ReactomePathways.gmt", "golden/enrichment/hallmark_v7.0.gmt")
METRICS = {
    "pearson_delta": ("Pearson-delta", "higher"),
    "mae": ("MAE", "lower"),
    "discrimination_score_l1": ("PDS (L1)", "higher"),
    "discrimination_score_cosine": ("PDS (cosine)", "higher"),
    "overlap_at_N": ("DES", "higher"),
}
# Issue 8: the mean effect's Pearson-delta, and the error of predicting no change.
TARGETS = {"pearson_delta": 0.30, "mae": 0.083}
CLEAR = ("STAT1", "JAK2", "IFNGR1", "IFNGR2")
RIVALS = ("mean_delta", "control", "nearest_neighbour", "ridge", PRIOR, REPLICATE)
PROTOCOL = Protocol(
    folds=5,
    steps=40,
    members=3,
    seeds=(0, 1),
    gene_sets=tuple(str(SHARED / name) for name in SETS),
    sizes={
        "d_model": 16,
        "n_layers": 2,
        "d_state": 16,
        "headdim": 32,
        "condition_dim": 16,
        "gene_identity_dim": 16,
        "identity_dropout": 1.0,
        "mean_response": False,
    },
    learning_rate=2e-3,
    weight_decay=0.1,
)
SMOKE = Protocol(2, 2, 2, (0,), (), PROTOCOL.sizes, 1e-3, 0.1)


def measure(scratch: Path, smoke: bool) -> list[report.Figure]:
    name = "papalexi2021_thp1_299genes_small.h5ad" if smoke else "papalexi2021_thp1_299genes.h5ad"
    store = str(scratch / "store")
    ingest([str(SHARED / "data" / "perturb" / name)], store, IngestOptions(gene_id_key="index"))
    source = ScreenSource(store, "target_gene", "non-targeting")
    found = predictions(source, SMOKE if smoke else PROTOCOL, scratch)
    table = scores(source, found, seed=0)
    return [figure for metric in METRICS for figure in _figures(table, metric)] + _clear(table)


def _figures(table: pd.DataFrame, metric: str) -> list[report.Figure]:
    """The model's mean over targets with its interval, and each rival's beside it."""
    title, better = METRICS[metric]
    values = _by_target(table, metric)
    ours = float(values[MODEL].mean())
    low, high = _interval(values[MODEL].to_numpy())
    seeds = [float(values[name].mean()) for name in values if str(name).startswith(f"{MODEL} ")]
    spread = f"seeds {min(seeds):.4f} to {max(seeds):.4f}, interval {low:.3f} to {high:.3f}"
    figures = [_figure(title, ours, TARGETS.get(metric), better, ours, None, spread)]
    for rival in RIVALS:
        if rival in values and values[rival].notna().any():
            theirs = values[rival].fillna(0.0 if metric == "pearson_delta" else np.nan)
            shared = theirs.notna()
            gain = (values[MODEL] - theirs)[shared].to_numpy()
            low, high = _interval(gain)
            note = f"{rival}, {int(shared.sum())} targets; difference {low:+.3f} to {high:+.3f}"
            figures.append(
                _figure(f"{title} above {rival}", gain.mean(), None, better, ours, theirs.mean(), note)
            )
    return figures


def _clear(table: pd.DataFrame) -> list[report.Figure]:
    """The four targets of one pathway, one by one."""
    values = _by_target(table, "pearson_delta")
    errors = _by_target(table, "mae")
    figures = []
    for target in CLEAR:
        ours, theirs = float(values[MODEL][target]), float(values["mean_delta"][target])
        figures.append(
            _figure(
                f"{target}: Pearson-delta", ours, theirs, "higher", ours, theirs, "mean_delta; its target"
            )
        )
        ours, theirs = float(errors[MODEL][target]), float(errors["control"][target])
        figures.append(_figure(f"{target}: MAE", ours, theirs, "lower", ours, theirs, "control; its target"))
    return figures


def _by_target(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """[targets, contenders], with the mean over seeds as the model."""
    values = table.pivot(index="target", columns="contender", values=metric)
    seeds = [name for name in values if str(name).startswith(f"{MODEL} ")]
    return values.assign(**{MODEL: values[seeds].mean(axis=1)})


def _interval(values: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    means = rng.choice(values, (2000, len(values))).mean(axis=1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def _figure(
    name: str,
    value: float,
    target: float | None,
    better: str,
    ours: float,
    theirs: float | None,
    theirs_is: str,
) -> report.Figure:
    return report.Figure(
        name=name,
        value=float(value),
        unit="",
        target=target,
        better=better,  # type: ignore[arg-type]
        ours=ours,
        theirs=theirs,
        theirs_is=theirs_is,
    )


if __name__ == "__main__":
    raise SystemExit(report.main("perturbation_quality", ABOUT, measure))
