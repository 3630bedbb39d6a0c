"""The table of all features, by columns: what the site's list, map and failures are drawn from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from engine.interpret.dashboard.inputs import SiteInputs
from engine.interpret.dashboard.numbers import rounded
from engine.interpret.enrichment.labels import SINGLE_GENE_BITS, UBIQUITOUS_DENSITY

GENES_IN_LIST = 5
SILENT, UBIQUITOUS, SINGLE_GENE, REDUNDANT, UNANNOTATED, BATCH = (1 << bit for bit in range(6))
REDUNDANT_COSINE = 0.9
REDUNDANT_CORRELATION = 0.95
BATCH_AUROC = 0.9
TOLD_AUROC = 0.7


def overview(inputs: SiteInputs) -> dict[str, Any]:
    """JSON values; one array a column, in the order of the features. Numbers of names are places in the
    lists beside them, -1 for none."""
    features = inputs.features.features
    top = inputs.features.top_genes
    named = top[top["rank"] < GENES_IN_LIST]
    gene_code, genes = pd.factorize(named["gene_name"].astype(str))
    first = int(features["feature"].iloc[0])
    listed = np.full((len(features), GENES_IN_LIST), -1)
    listed[named["feature"].to_numpy() - first, named["rank"].to_numpy()] = gene_code
    table: dict[str, Any] = {
        "first": first,
        "nFeatures": len(features),
        "nCells": int(inputs.features.facts.get("n_cells", 0)),
        "geneScore": str(inputs.features.lineage.get("tables", {}).get("score", "mean")),
        "genes": list(genes),
        "topGenes": listed.ravel().tolist(),
        "density": rounded(features["density"]),
        "max": rounded(features["max_activation"]),
        "cells": features["n_cells"].tolist(),
        "entropy": rounded(features["gene_entropy"], 3),
        "alpha": inputs.alpha,
        "batchesKnown": inputs.batch is not None,
    }
    table |= _labels(features) | _enrichment(inputs, features) | _stability(inputs, features)
    table["flags"] = flags(inputs).tolist()
    return table


def _labels(features: pd.DataFrame) -> dict[str, Any]:
    if "best_label" not in features:
        return {"labels": [], "label": [-1] * len(features)}
    code, labels = pd.factorize(features["best_label"])
    return {
        "labels": [str(label) for label in labels],
        "label": code.tolist(),
        "auroc": rounded(features["best_label_auroc"], 3),
        "labelFdr": rounded(features["best_label_rank_fdr"], 3),
    }


def _enrichment(inputs: SiteInputs, features: pd.DataFrame) -> dict[str, Any]:
    described = inputs.described
    if described is None:
        return {"terms": None}
    rows = described.set_index("feature").reindex(features["feature"])
    term_code, terms = pd.factorize(rows["best_term"].replace("", None))
    maker_code, makers = pd.factorize(rows["label_by"])
    groups = sorted({group for text in rows["groups"].fillna("") for group in text.split("|") if group})
    mask = [
        sum(1 << groups.index(group) for group in text.split("|") if group)
        for text in rows["groups"].fillna("")
    ]
    found: dict[str, Any] = {
        "terms": rows["n_terms"].astype(int).tolist(),
        "groups": groups,
        "groupMask": mask,
        "termNames": [str(term) for term in terms],
        "term": term_code.tolist(),
        "q": rounded(rows["best_q"], 3),
        "odds": rounded(rows["best_odds"], 3),
        "nullShare": rounded(rows["best_null_share"], 3),
        "listed": rows["n_genes"].astype(int).tolist(),
        "name": rows["label"].astype(str).tolist(),
        "makers": [str(maker) for maker in makers],
        "maker": maker_code.tolist(),
        "confidence": rounded(rows["label_confidence"], 2),
    }
    return found | ({"edgesQ": rounded(rows["edges_q"], 3)} if "edges_q" in rows else {})


def _stability(inputs: SiteInputs, features: pd.DataFrame) -> dict[str, Any]:
    if inputs.others is None:
        return {}
    rows = inputs.others.stability.reindex(features["feature"])
    return {"stability": rounded(rows["stability"], 3)}


def flags(inputs: SiteInputs) -> np.ndarray:
    """What speaks against each feature, as bits."""
    features = inputs.features.features
    silent = (features["n_tokens"] == 0).to_numpy()
    found = np.where(silent, SILENT, 0)
    found |= np.where((features["density"] > UBIQUITOUS_DENSITY).to_numpy(), UBIQUITOUS, 0)
    single = (features["gene_entropy"] < SINGLE_GENE_BITS).to_numpy() & ~silent
    found |= np.where(single, SINGLE_GENE, 0)
    partners = inputs.features.table("partners")
    twins = partners[
        (partners["cosine"] >= REDUNDANT_COSINE) | (partners["correlation"] >= REDUNDANT_CORRELATION)
    ]
    found |= np.where(features["feature"].isin(twins["feature"]).to_numpy(), REDUNDANT, 0)
    told = np.zeros(len(features), bool)
    if "best_label" in features:
        known = features["best_label_rank_fdr"] <= inputs.alpha
        told = (known & (features["best_label_auroc"] >= TOLD_AUROC)).to_numpy()
    if inputs.described is not None:
        terms = inputs.described.set_index("feature")["n_terms"].reindex(features["feature"])
        told |= (terms.fillna(0) > 0).to_numpy()
    found |= np.where(~told & ~silent, UNANNOTATED, 0)
    if inputs.batch_auroc is not None:
        auroc = inputs.batch_auroc.reindex(features["feature"]).to_numpy()
        found |= np.where(auroc >= BATCH_AUROC, BATCH, 0)
    return found
