"""Looking at embeddings: the map, and how well neighbours agree on a label.

Shape legend: C cells, D width of an embedding, P principal components.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from scipy import sparse

from engine.interpret.runs import Float32

NEIGHBOURS = 15
FOLDS = 5
COMPONENTS = 50
"""Principal components of the baseline: the usual choice for counts, scanpy's default."""


def umap_projection(e_CD: Float32, seed: int = 0) -> Float32:
    """UMAP of embeddings on the plane, float32 [C, 2]; one thread and a fixed seed, so it can be repeated."""
    import umap

    with warnings.catch_warnings():
        # umap says that a seed makes it single-threaded: that is what we ask for.
        warnings.simplefilter("ignore", UserWarning)
        reducer = umap.UMAP(
            n_neighbors=min(NEIGHBOURS, len(e_CD) - 1),
            min_dist=0.3,
            metric="cosine",
            random_state=seed,
            n_jobs=1,
        )
        place_C2: Float32 = np.asarray(reducer.fit_transform(e_CD), dtype=np.float32)
    return place_C2


def neighbour_accuracy(e_CD: Float32, labels: Sequence[str], seed: int = 0) -> float:
    """Share of held-out cells whose 15 nearest neighbours vote for their label; 5 stratified folds."""
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    with warnings.catch_warnings():
        # A label with fewer than five cells cannot be in every fold; it still counts.
        warnings.simplefilter("ignore", UserWarning)
        scores = cross_val_score(
            KNeighborsClassifier(NEIGHBOURS),
            e_CD,
            np.asarray(labels),
            cv=StratifiedKFold(FOLDS, shuffle=True, random_state=seed),
        )
    return float(scores.mean())


def majority_share(labels: Sequence[str]) -> float:
    """Accuracy of always naming the commonest label."""
    return float(np.unique(np.asarray(labels), return_counts=True)[1].max() / len(labels))


def expression_components(counts: sparse.csr_matrix, seed: int = 0) -> Float32:
    """The baseline to hold any embedding against: PCA of log1p(counts per 10,000), float32 [C, P]."""
    from sklearn.decomposition import PCA

    totals_C = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    logged = np.log1p(np.asarray(counts.todense()) * (1e4 / totals_C[:, None]))
    kept = min(COMPONENTS, min(logged.shape) - 1)
    components: Float32 = PCA(kept, random_state=seed).fit_transform(logged).astype(np.float32)
    return components
