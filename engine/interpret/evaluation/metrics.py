"""metrics.json: one row a dictionary with all that was found of it, and how it was found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from engine.interpret.evaluation.downstream import TOTAL
from engine.interpret.evaluation.frozen_decoder import BATCH_TOKENS
from engine.interpret.evaluation.inputs import CLASSES, EvaluationInputs
from engine.interpret.evaluation.options import EvaluationOptions
from engine.interpret.evaluation.probes import SPARSITIES

DEAD_WINDOW = 10_000_000
"""Tokens after which a silent feature may be called dead (specs/sae.md section 6)."""
MOST_TIMES_REFERENCE = 2.0
"""Other cells cost some of the fit; an autoencoder fed from another hook point loses all of it."""
CLEAR_GAP = 3.0
"""Standard errors by which an ablation must raise the loss before a ratio to it is worth a line."""
COLUMNS = (
    "dictionary",
    "n_features",
    "fvu",
    "l0",
    "dead_share",
    "ultra_dense_share",
    "median_density",
    "single_gene_share",
    "mean_best_auroc",
    "mean_best_auroc_many_genes",
    "mean_label_margin",
    "strong_label_share",
    "strong_label_share_many_genes",
    "labels_with_a_strong_feature",
    *(f"probe_auroc_{k}" for k in SPARSITIES),
)
"""Order of the columns of a row; those of the splicing follow."""


def metrics(
    inputs: EvaluationInputs, options: EvaluationOptions, facts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """metrics.json, from the facts of all stages by name."""
    seen, metadata = facts["tokens"], inputs.config.metadata
    rows = []
    for row in seen["rows"]:
        ordered = {name: row[name] for name in COLUMNS if name in row}
        rows.append(ordered | downstream_of(facts.get("downstream"), row["dictionary"]))
    return {
        "sae": {
            "path": inputs.sae_path,
            "fingerprint": inputs.sae_fingerprint,
            "architecture": inputs.config.architecture,
            "d_in": inputs.config.d_in,
            "d_sae": inputs.config.d_sae,
            "hook": inputs.hook,
            "gene_residual": inputs.gene_means is not None,
            **{name: metadata.get(name) for name in ("reference_fvu", "reference_l0", "training_tokens")},
        },
        "window": {
            "tokens": seen["n_tokens"],
            "token_class": CLASSES[inputs.kind],
            "cells": seen["n_cells"],
            "dead_means": f"fires on none of these {seen['n_tokens']:,} tokens",
            "long_enough_for_dead": seen["n_tokens"] >= DEAD_WINDOW,
            "trained_on_these_cells": inputs.trained_here,
            "groups": inputs.groups.column,
            "label": inputs.label.name if inputs.label else None,
        },
        "warnings": warnings_about(inputs, rows[0]["fvu"]),
        "baselines": {
            "active_features": facts["baselines"]["k"],
            "frozen_decoder_tokens": options.frozen_steps * BATCH_TOKENS,
        },
        "dictionaries": rows,
        **{name: facts[name] for name in ("downstream", "stability") if name in facts},
        "reconstruction": seen["reconstruction"],
        "probing": seen["probing"],
    }


def warnings_about(inputs: EvaluationInputs, fvu: float | None) -> list[str]:
    """What a reader of the numbers should know first. fvu: of the evaluated autoencoder."""
    warnings = []
    if inputs.trained_here:
        warnings.append(
            "the autoencoder was trained on these cells: its numbers are not of held-out tokens. Evaluate it "
            "on a cache of other cells."
        )
    reference = inputs.config.metadata.get("reference_fvu")
    if reference and fvu and fvu > MOST_TIMES_REFERENCE * reference:
        warnings.append(
            f"FVU is {fvu:.3f} here and was {reference:.3f} on held-out tokens of its training. These cells "
            "are of another kind, or the activations are not what it was trained on."
        )
    return warnings


def probe_summary(table: pd.DataFrame, name: str) -> dict[str, float]:
    """Mean AUROC over labels of one dictionary's sparse probes."""
    own = table[table["representation"] == name]
    return {f"probe_auroc_{k}": float(own.loc[own["k"] == str(k), "auroc"].mean()) for k in SPARSITIES}


def downstream_of(facts: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """What the encoder keeps of one dictionary. What a replacement cannot reach, and ratios to an ablation
    that does not clearly harm the model, are left out; the tables have them."""
    if facts is None:
        return {}
    row: dict[str, Any] = {}
    for loss in facts["losses"]:
        if loss["dictionary"] != name or loss["term"] != TOTAL:
            continue
        for ablation in ("zero", "mean"):
            if (loss[f"gap_z_{ablation}"] or 0) >= CLEAR_GAP:
                row[f"recovered_{ablation}_{loss['scope']}"] = loss[f"recovered_{ablation}"]
    for found in facts["embeddings"]:
        if found["replacement"] == name and found["reached"]:
            row[f"embedding_cosine_{found['pool']}"] = found["cosine"]
            if "accuracy_same_probe" in found:
                row[f"label_accuracy_{found['pool']}"] = found["accuracy_same_probe"]
    return row


def as_json(value: Any) -> Any:
    """Python's own types; numbers that are none (NaN, infinity) become null."""
    if isinstance(value, Mapping):
        return {str(name): as_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
