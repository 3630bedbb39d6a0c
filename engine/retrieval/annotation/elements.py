"""The tables of an annotated file that people and CELLxGENE read: obs, var and uns.

Legend: C cells, G genes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from engine.retrieval.annotation.assembly import Assembled
from engine.retrieval.annotation.captions import as_json
from engine.retrieval.annotation.clusters import LEIDEN, Evidence
from engine.retrieval.annotation.inputs import AnnotationInputs
from engine.retrieval.annotation.tables import organism_of, shown_obs
from engine.retrieval.annotation.zero_shot import UNASSIGNED, ZeroShot

MADE_BY = "syncytium"


def obs_of(
    inputs: AnnotationInputs,
    assembled: Assembled,
    evidence: Mapping[str, Sequence[Evidence]],
    labels: ZeroShot,
) -> pd.DataFrame:
    """The cells' own columns, clusters with their titles, and zero-shot labels."""
    obs = shown_obs(inputs.obs)
    names = pd.Index([str(number) for number in range(assembled.layout.n_clusters)])
    obs[LEIDEN] = pd.Categorical.from_codes(assembled.layout.cluster_C, names)
    for field in assembled.sums.fields:
        if field.name in evidence:
            titles = [as_json(each)["title"] for each in evidence[field.name]]
            of_cell = np.array([*titles, None], dtype=object)[field.number_C]
            obs[field.label_column] = pd.Categorical(of_cell, categories=list(dict.fromkeys(titles)))
    best = pd.Categorical.from_codes(assembled.best_C, pd.Index(labels.names))
    obs["zero_shot_best_label"] = best
    named = best.add_categories([UNASSIGNED]) if UNASSIGNED not in best.categories else best
    obs["zero_shot_label"] = pd.Series(named, index=obs.index).where(assembled.is_named_C, UNASSIGNED)
    obs["zero_shot_confidence"] = assembled.confidence_C
    return obs


def uns_of(
    inputs: AnnotationInputs,
    title: str,
    labels: ZeroShot,
    assembled: Assembled,
    evidence: Mapping[str, Sequence[Evidence]],
    lineage: Mapping[str, Any],
    lineage_id: str,
) -> dict[str, Any]:
    """CellWhisperer's entries, and ours: label_names (columns of label_scores), term_names, cluster_evidence
    (JSON: field -> cluster -> title, caption and evidence), and what the file was made from.
    """
    organism, taxon = organism_of(inputs.obs)
    model_name = inputs.joint.rstrip("/").rsplit("/", 1)[-1]
    dataset = str(inputs.store.location).rsplit("/", 1)[-1]
    stated = {
        field.name: dict(zip(field.names, map(as_json, evidence[field.name]), strict=True))
        for field in assembled.sums.fields
        if field.name in evidence
    }
    uns = {
        "dataset_name": dataset,
        "model_name": model_name,
        "terms": {
            library.replace("/", "-"): np.array([term.name for term in terms], dtype=object)
            for library, terms in inputs.libraries.items()
        },
        "version": {"corpora_schema_version": "1.1.0", "corpora_encoding_version": "0.1.0"},
        "title": title or f"{dataset} ({model_name})",
        "layer_descriptions": "X: log1p after 10K total-normalization",
        "organism": organism,
        "organism_ontology_term_id": taxon,
        "default_embedding": "X_cellwhisperer_umap",
        "label_names": np.array(labels.names, dtype=object),
        "cluster_evidence": json.dumps(stated, ensure_ascii=False),
        MADE_BY: {
            "lineage_id": lineage_id,
            "lineage": json.dumps(lineage, sort_keys=True),
            "scale": labels.scale,
            "landmarks": assembled.layout.n_landmarks,
        },
    }
    if assembled.has_term_scores:
        uns["term_names"] = np.array([term.name for term in inputs.terms], dtype=object)
    return uns
