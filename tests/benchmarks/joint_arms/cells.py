"""Labelled cells of eleven public sets in one store: labels in one vocabulary, some donors held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import numpy.typing as npt
from scipy import sparse

from engine.retrieval.evaluation.inputs import expression_of
from storage.cells import CellStore
from storage.ingest import ingest
from tests.benchmarks.encoding.real_cells import SHARED

PBMC = (
    "pbmc3k",
    "pbmc4k_soupx",
    "pbmc_sorted_zheng",
    "pbmc_facs_garnett",
    "pbmc68k_reduced",
    "pbmc_lupus_ifnb_kang",
)
# Not breast_tumor_copykat: its labels are a program's, and one of them is all cells that are not malignant.
OTHERS = (
    "pancreas_baron_human",
    "nsclc_zilionis",
    "cortex_nuclei_allen",
    "lung_adenocarcinoma_lines_cellbench",
)
# The sets name the same cells differently: sort gates, clusters, subsets of T cells and of monocytes.
SAME = {
    "B cell": ("CD19+ B cell", "blood B cell", "tumor-infiltrating B cell"),
    "CD4+ T cell": (
        "naive CD4+ T cell",
        "memory CD4+ T cell",
        "CD4+/CD25+ regulatory T cell",
        "CD4+ helper T cell",
        "CD4+/CD45RO+ memory T cell",
        "CD4+/CD45RA+/CD25- naive T cell",
    ),
    "CD8+ T cell": ("CD8+ cytotoxic T cell", "CD8+/CD45RA+ naive cytotoxic T cell"),
    "natural killer cell": (
        "CD56+ natural killer cell",
        "blood natural killer cell",
        "tumor-infiltrating natural killer cell",
    ),
    "monocyte": ("CD14+ monocyte", "FCGR3A+ monocyte", "mononuclear phagocyte", "blood monocyte"),
}
LABEL_OF = {name: label for label, names in SAME.items() for name in names}
# The last is the union of two labels of other sets, so that neither answer would be wrong.
UNLABELLED = ("unknown", "ND", "blood T cell")
# All of one set that is seen nowhere else, one of two donors of another; a donor of other sets with several.
HELD_PBMC = ("pbmc4k_donor", "107")
HELD_OTHERS = ("human3", "H200.1030", "p1")
TEMPLATE = "{label} from {tissue}"
# Genes that few sets have measured tell a cell's set rather than its type.
FEWEST_SETS, MARKERS = 5, 50


@dataclass(frozen=True)
class Cells:
    """The store, and of each cell its label and caption, whether it is of a PBMC set, and held out."""

    store: str
    label_C: npt.NDArray[np.str_]
    caption_C: npt.NDArray[np.str_]
    blood_C: npt.NDArray[np.bool_]
    held_C: npt.NDArray[np.bool_]

    @property
    def n_cells(self) -> int:
        return len(self.caption_C)


def write_cells(folder: Path, names: Sequence[str], most: int) -> Cells:
    """At most so many cells of each set, drawn at random."""
    random, files = np.random.default_rng(0), []
    for name in names:
        whole = anndata.read_h5ad(f"{SHARED}/data/{name}.h5ad")
        labels = whole.obs["cell_type"].astype(str)
        rows = np.flatnonzero(~labels.isin(UNLABELLED))
        if len(rows) > most:
            rows = np.sort(random.choice(rows, most, replace=False))
        part = whole[rows].copy()
        part.obs["label"] = [LABEL_OF.get(label, label) for label in labels.iloc[rows]]
        part.obs = part.obs[["label", "donor", "tissue", "dataset"]].astype(str)
        files.append(str(folder / f"{name}.h5ad"))
        part.write_h5ad(files[-1])
    ingest(files, str(folder / "cells"))
    return described(str(folder / "cells"))


def described(store: str) -> Cells:
    """A store that `write_cells` has written."""
    obs = CellStore.open(store).obs()
    captions = np.array([TEMPLATE.format(**row) for row in obs[["label", "tissue"]].to_dict("records")])
    return Cells(
        store=store,
        label_C=obs["label"].to_numpy(dtype=np.str_),
        caption_C=captions,
        blood_C=obs["dataset"].isin(PBMC).to_numpy(),
        held_C=obs["donor"].isin([*HELD_PBMC, *HELD_OTHERS]).to_numpy(),
    )


def held_donors(cells: Cells) -> tuple[str, ...]:
    """Those of the donors to hold out that are there."""
    there = set(CellStore.open(cells.store).obs(["donor"])["donor"])
    return tuple(donor for donor in (*HELD_PBMC, *HELD_OTHERS) if donor in there)


def medians_of_markers(cells: Cells) -> dict[str, float]:
    """Non-zero median per 10,000 counts of the genes that mark each label best in the cells to learn from."""
    store = CellStore.open(cells.store)
    learnt = np.flatnonzero(~cells.held_C)
    x_CG = expression_of(store, learnt)
    sets, labels = store.obs(["dataset"])["dataset"].to_numpy()[learnt], cells.label_C[learnt]
    seen_G = sum(_share_with(x_CG[sets == name]) > 0 for name in np.unique(sets))
    mean_G = np.asarray(x_CG.mean(axis=0)).ravel()
    deviation_G = np.sqrt(np.asarray(x_CG.multiply(x_CG).mean(axis=0)).ravel() - mean_G**2 + 1e-6)
    chosen = set()
    for label in np.unique(labels):
        own = x_CG[labels == label]
        effect_G = (np.asarray(own.mean(axis=0)).ravel() - mean_G) / deviation_G
        effect_G[(_share_with(own) < 0.1) | (seen_G < min(FEWEST_SETS, len(np.unique(sets))))] = -np.inf
        best = np.argsort(-effect_G)[:MARKERS]
        chosen |= set(best[np.isfinite(effect_G[best])].tolist())
    columns = x_CG.tocsc()
    return {
        str(store.genes.index[gene]): float(np.median(np.expm1(columns[:, [gene]].data)))
        for gene in sorted(chosen)
    }


def _share_with(x_CG: sparse.csr_matrix) -> npt.NDArray[np.float64]:
    """Share of the cells in which each gene has a count."""
    return np.asarray((x_CG > 0).mean(axis=0)).ravel()
