"""A small screen with two contexts and a combination, whose effects are known."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from storage.ingest import IngestOptions, ingest

GENES = [f"G{number}" for number in range(24)]
LABELS = ("non-targeting", "G0", "G1", "G2", "G3", "X1", "G0+G1")
CONTEXTS = ("left", "right")


def small_screen(seed: int = 0, cells: int = 30) -> anndata.AnnData:
    """Each target silences itself and doubles the gene after it; the contexts differ in G20."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(2.0, 2.0, len(GENES)) + 1
    rows, labels, contexts = [], [], []
    for context in CONTEXTS:
        for label in LABELS:
            rate = rates * (1 + 3 * (np.arange(len(GENES)) == 20) * (context == "right"))
            for gene in label.split("+"):
                if gene in GENES:
                    rate = rate.copy()
                    rate[GENES.index(gene)] *= 0.05
                    rate[GENES.index(gene) + 1] *= 2
            rows.append(rng.poisson(rate, (cells, len(GENES))))
            labels += [label] * cells
            contexts += [context] * cells
    obs = pd.DataFrame(
        {"target": labels, "line": contexts}, index=[f"c{number}" for number in range(len(labels))]
    )
    counts = sparse.csr_matrix(np.concatenate(rows).astype(np.float32))
    return anndata.AnnData(counts, obs=obs.astype("category"), var=pd.DataFrame(index=GENES))


def small_store(folder: Path, seed: int = 0) -> str:
    small_screen(seed).write_h5ad(folder / "screen.h5ad")
    ingest([str(folder / "screen.h5ad")], str(folder / "store"), IngestOptions(gene_id_key="index"))
    return str(folder / "store")
