"""Feature tables of as many made-up features as one asks, and gene sets that some of them are enriched in."""

from pathlib import Path

import numpy as np
import pandas as pd

from storage.features import finish_tables, plan_tables, write_range

GENES, LISTED, CELLS, PARTNERS, BINS, LABELS, SETS = 15_000, 50, 20, 10, 12, 12, 500
_RANGE = 8_192


def write_features(place: Path, n_features: int) -> Path:
    edges = [*range(0, n_features, _RANGE), n_features]
    tables = {"top_genes": LISTED, "min_gene_tokens": 1}
    dataset = plan_tables(str(place), {"made": n_features, "sae": "none", "tables": tables}, edges)
    for member in dataset.members:
        first, stop = member.facts["first"], member.facts["stop"]
        write_range(dataset, member.key, _tables(np.arange(first, stop), n_features))
    numbers = np.arange(GENES)
    genes = pd.DataFrame(
        {"gene": numbers, "gene_id": names("ENSG", numbers), "gene_name": names("GENE", numbers)}
    )
    genes = genes.assign(n_tokens=50, sum_expression=50.0, mean_expression=np.linspace(1, 3, GENES))
    finish_tables(
        dataset, genes, {}, {"n_features": n_features, "n_features_fired": n_features, "n_cells": 1000}
    )
    return place


def write_sets(path: Path) -> Path:
    """Gene sets of neighbouring genes: a tenth of the features draw from one."""
    lines = ["\t".join([f"SET_{place}", "", *names("GENE", _set(place))]) for place in range(SETS)]
    path.write_text("\n".join(lines) + "\n")
    return path


def names(start: str, numbers: np.ndarray) -> list[str]:
    return [f"{start}{number}" for number in numbers.tolist()]


def _set(place: int) -> np.ndarray:
    return np.arange(place * 30, place * 30 + 30)


def _tables(feature: np.ndarray, n_features: int) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(int(feature[0]))
    n = len(feature)
    gene = np.argsort(rng.random((n, 2000)), axis=1)[:, :LISTED] * 7 + rng.integers(0, 7, (n, 1))
    for row in range(0, n, 10):
        gene[row, :20] = rng.permutation(_set(int(feature[row]) % SETS))[:20]
    scored = {
        name: np.tile(np.linspace(2, 1, LISTED), n) for name in ("score", "mean", "expression", "lift", "t")
    }
    label = rng.integers(0, LABELS, n)
    density = 10 ** rng.uniform(-5, -1, n)
    return {
        "features": pd.DataFrame(
            {
                "feature": feature, "n_tokens": 100, "density": density, "max_activation": 2.5, "n_cells": 30,
                "n_genes": LISTED, "gene_entropy": 4.0, "top_gene": names("GENE", gene[:, 0]),
                "best_label": names("type ", label), "best_label_auroc": rng.uniform(0.5, 1, n),
                "best_label_rank_fdr": 1e-6,
            }
        ),
        "top_genes": _rows(feature, LISTED).assign(
            gene=gene.ravel(), gene_id=names("ENSG", gene.ravel()), gene_name=names("GENE", gene.ravel()),
            n=40, occurrences=50, **scored,
        ),
        "top_cells": _rows(feature, CELLS).assign(cell_name="cell", max_activation=2.5, label="type 1"),
        "labels": _rows(feature, LABELS).assign(
            label=np.tile(names("type ", np.arange(LABELS)), n), cells_firing=20, cells=30, odds_ratio=4.0,
            fdr=0.01, auroc=rng.random(n * LABELS), rank_fdr=0.01,
        ),
        "histograms": _rows(feature, BINS).assign(low=0.5, high=1.0, n_tokens=60),
        "partners": _rows(feature, PARTNERS).assign(
            partner=(np.repeat(feature, PARTNERS) + np.tile(np.arange(1, PARTNERS + 1), n)) % n_features,
            correlation=rng.random(n * PARTNERS), cosine=0.1, joint=30,
        ),
    }  # fmt: skip


def _rows(feature: np.ndarray, each: int) -> pd.DataFrame:
    ranks = np.tile(np.arange(each), len(feature))
    return pd.DataFrame({"feature": np.repeat(feature, each), "rank": ranks})
