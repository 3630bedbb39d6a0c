"""Feature tables with a meaning planted: features 0 to 3 fire on the genes of one gene set each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from storage.databases import encoded, finish_sources, plan_sources, write_source
from storage.features import finish_tables, plan_tables, write_range

GENES, FEATURES, LISTED, PLANTED = 400, 24, 20, 4
SETS, SET_GENES = 30, 12
RARE = 10
"""The last genes are seen on too few tokens to be listed."""
HOSTILE = '<img src=x onerror="document.title=1">'
SILENT = FEATURES - 1
"""The last feature never fires."""


def gene_name(gene: int) -> str:
    return f"GENE{gene}"


def set_genes() -> list[list[int]]:
    """Genes of each set; those of the first PLANTED do not overlap."""
    rng = np.random.default_rng(1)
    planted = [list(range(place * SET_GENES, (place + 1) * SET_GENES)) for place in range(PLANTED)]
    others = [rng.choice(GENES, SET_GENES, replace=False).tolist() for _ in range(SETS - PLANTED)]
    return planted + others


def write_gmt(path: Path) -> Path:
    lines = [
        "\t".join([f"SET_{place}", HOSTILE if place == 0 else "", *map(gene_name, genes)])
        for place, genes in enumerate(set_genes())
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def listed_genes(seed: int = 0, planted: int = PLANTED) -> list[list[int]]:
    """Genes of each feature, the strongest first: ten of its set, then others at random."""
    rng = np.random.default_rng(seed)
    lists = []
    for feature in range(FEATURES - 1):
        first = set_genes()[feature][:10] if feature < planted else []
        rest = rng.permutation(np.setdiff1d(np.arange(GENES - RARE), first))
        lists.append([*first, *rest[: LISTED - len(first)].tolist()])
    return [*lists, []]


def write_features(
    place: Path, *, ranges: int = 2, seed: int = 0, planted: int = PLANTED, sae: str = ""
) -> Path:
    """A finished dataset of feature tables at `place`. sae: fingerprint of the autoencoder they are of."""
    edges = np.linspace(0, FEATURES, ranges + 1).astype(int).tolist()
    lineage = {
        "seed": seed,
        "planted": planted,
        "sae": sae,
        "tables": {"top_genes": LISTED, "min_gene_tokens": 2},
    }
    dataset = plan_tables(str(place), lineage, edges)
    tables = _tables(listed_genes(seed, planted))
    for member in dataset.members:
        first, stop = member.facts["first"], member.facts["stop"]
        part = {name: table[table["feature"].between(first, stop - 1)] for name, table in tables.items()}
        write_range(dataset, member.key, part)
    finish_tables(
        dataset, _genes(), {}, {"n_features": FEATURES, "n_features_fired": FEATURES - 1, "n_cells": 60}
    )
    return place


def _genes() -> pd.DataFrame:
    """The last genes were seen once: too rarely to be listed."""
    numbers = np.arange(GENES)
    return pd.DataFrame(
        {
            "gene": numbers,
            "gene_id": [f"ENSG{number:011d}.3" for number in numbers],
            "gene_name": [gene_name(number) for number in numbers],
            "n_tokens": np.where(numbers < GENES - RARE, 50, 1),
            "sum_expression": np.linspace(1, 3, GENES) * 50,
            "mean_expression": np.linspace(1, 3, GENES),
        }
    )


def _tables(lists: list[list[int]]) -> dict[str, pd.DataFrame]:
    fired = [feature for feature, genes in enumerate(lists) if genes]
    features = pd.DataFrame({"feature": np.arange(FEATURES)})
    alive = features["feature"] != SILENT
    features["n_tokens"] = np.where(alive, 100 + features["feature"], 0)
    features["density"] = features["n_tokens"] / 10_000
    features["max_activation"] = np.where(alive, 2.5, 0.0).astype(np.float32)
    features["mean_activation"] = np.where(alive, 1.0, 0.0)
    features["std_activation"] = np.where(alive, 0.25, 0.0)
    features["n_cells"] = np.where(alive, 30, 0)
    features["cell_fraction"] = features["n_cells"] / 60
    features["n_genes"] = [len(genes) for genes in lists]
    features["gene_entropy"] = np.where(alive, 4.0, 0.0)
    features["top_gene"] = [gene_name(genes[0]) if genes else None for genes in lists]
    features["best_label"] = np.where(alive, np.where(features["feature"] % 2, "B cell", HOSTILE), None)
    features["best_label_odds_ratio"] = np.where(alive, np.inf, np.nan)
    features["best_label_p_value"] = np.where(alive, 1e-9, np.nan)
    features["best_label_fdr"] = np.where(alive, 1e-8, np.nan)
    features["best_label_auroc"] = np.where(alive, 0.9, np.nan)
    features["best_label_rank_fdr"] = np.where(alive, 1e-6, np.nan)
    return {
        "features": features,
        "top_genes": pd.concat([_gene_rows(feature, lists[feature]) for feature in fired]),
        "top_cells": pd.concat([_cell_rows(feature) for feature in fired]),
        "labels": pd.concat([_label_rows(feature) for feature in fired]),
        "histograms": pd.concat([_bin_rows(feature) for feature in fired]),
        "partners": pd.concat([_partner_rows(feature) for feature in fired]),
    }


def _gene_rows(feature: int, genes: list[int]) -> pd.DataFrame:
    score = np.linspace(2, 1, len(genes))
    return pd.DataFrame(
        {
            "feature": feature,
            "rank": np.arange(len(genes)),
            "gene": genes,
            "gene_id": [f"ENSG{gene:011d}.3" for gene in genes],
            "gene_name": [gene_name(gene) for gene in genes],
            "score": score,
            "mean": score,
            "expression": score * 10,
            "corrected": score * 5,
            "lift": score * 20,
            "t": score * 8,
            "n": 40,
            "occurrences": 50,
            "sum": score * 50,
            "max": score + 0.5,
        }
    )


def _cell_rows(feature: int) -> pd.DataFrame:
    ranks = np.arange(5)
    return pd.DataFrame(
        {
            "feature": feature,
            "rank": ranks,
            "cell": (feature + ranks) % 60,
            "cell_name": [f"cell {(feature + rank) % 60}" for rank in ranks],
            "max_activation": (2.5 - ranks / 10).astype(np.float32),
            "mean_activation": 0.1,
            "label": ["B cell" if rank % 2 else HOSTILE for rank in ranks],
        }
    )


def _label_rows(feature: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "feature": feature,
            "label": ["B cell", HOSTILE],
            "cells_firing": [20, 10],
            "cells": 30,
            "other_firing": [10, 20],
            "other_cells": 30,
            "odds_ratio": [4.0, np.inf],
            "p_value": [0.01, 0.99],
            "fdr": [0.04, 1.0],
            "auroc": [0.9, 0.1] if feature % 2 else [0.1, 0.9],
            "rank_p_value": [1e-8, 0.99],
            "rank_fdr": [1e-6, 1.0],
        }
    )


def _bin_rows(feature: int) -> pd.DataFrame:
    return pd.DataFrame(
        {"feature": feature, "bin": [40, 41], "low": [0.5, 1.0], "high": [1.0, 2.0], "n_tokens": [60, 40]}
    )


def _partner_rows(feature: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "feature": feature,
            "rank": [0, 1],
            "partner": [(feature + 1) % SILENT, (feature + 2) % SILENT],
            "correlation": [0.99 if feature < 2 else 0.3, 0.1],
            "cosine": [0.4, 0.05],
            "pmi": [2.0, 0.5],
            "joint": [30, 10],
            "tokens": 100,
            "partner_tokens": 100,
        }
    )


def write_databases(place: Path) -> Path:
    """A finished dataset of databases: phenotypes under phenotypes (not to be shown to others), and a network
    in which the genes of feature 0 know each other."""
    sets = set_genes()
    names = [f"HP:{number:07d}" for number in range(PLANTED)]
    system, root = "HP:0000200", "HP:0000118"
    rows = [(gene_name(gene), term) for term, genes in zip(names, sets, strict=False) for gene in genes]
    rows += [(gene, above) for gene, _ in rows for above in (system, root)]
    rows += [(gene_name(gene), root) for gene in range(150, 250)]
    associations = pd.DataFrame(sorted(set(rows)), columns=["gene", "term_id"]).assign(
        source="hpo", evidence="direct", score=np.nan, raw_term="", release="2026-01"
    )
    terms = pd.DataFrame(
        {
            "term_id": [*names, system, root],
            "name": [*(f"phenotype {number}" for number in range(PLANTED)), "organ", "abnormality"],
            "parents": [*([system] for _ in names), [root], []],
            "group": "phenotype",
        }
    )
    edges = [(gene_name(a), gene_name(b), 900.0) for a in range(8) for b in range(a + 1, 8)]
    edges += [(gene_name(gene), gene_name(gene + 1), 900.0) for gene in range(50, 300)]
    unmapped = pd.DataFrame({"name": [], "reason": [], "rows": []})
    dataset = plan_sources(str(place), {"made": "by a test"}, ["hpo", "string"])
    facts = {"title": "t", "release": "r", "licence": "l", "licence_url": "https://l", "attribution": "a"}
    hpo = {"terms": terms, "associations": associations, "unmapped": unmapped}
    write_source(
        dataset, "hpo", _encoded(hpo), {**facts, "evidence_group": "phenotype", "redistribute": False}
    )
    network = {
        "terms": terms.iloc[:0],
        "associations": associations.iloc[:0],
        "unmapped": unmapped,
        "edges": pd.DataFrame(edges, columns=["gene_a", "gene_b", "score"]),
    }
    write_source(
        dataset, "string", _encoded(network), {**facts, "evidence_group": "network", "redistribute": True}
    )
    genes = pd.DataFrame({name: [""] for name in ("gene", "hgnc_id", "ensembl_id", "ncbi_id", "found_by")})
    finish_sources(dataset, genes)
    return place


def _encoded(tables: dict[str, pd.DataFrame]) -> dict[str, bytes]:
    return {name: encoded(name, table) for name, table in tables.items()}
