"""Small input files in every format, written with the formats' own libraries where there is one."""

import gzip
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy import sparse


def counts(n_cells: int = 60, n_genes: int = 40, seed: int = 0, density: float = 0.3) -> sparse.csr_matrix:
    """Integer counts, cells x genes, int32."""
    rng = np.random.default_rng(seed)
    matrix = sparse.random(n_cells, n_genes, density, format="csr", random_state=rng)
    matrix.data = rng.geometric(0.3, matrix.nnz)
    return matrix.astype(np.int32)


def cells(n_cells: int = 60, n_genes: int = 40, seed: int = 0) -> anndata.AnnData:
    """Counts with Ensembl ids, and obs columns of every kind."""
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(rng.choice(["B cell", "T cell", "monocyte"], n_cells)),
            "n_reads": rng.integers(0, 1000, n_cells),
            "score": rng.random(n_cells),
            "kept": rng.random(n_cells) < 0.5,
            "note": [f"note {i}" for i in range(n_cells)],
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(
        {
            "gene_name": [f"G{i}" for i in range(n_genes)],
            "ensembl_id": [f"ENSG{i:011d}" for i in range(n_genes)],
        },
        index=[f"G{i}" for i in range(n_genes)],
    )
    return anndata.AnnData(counts(n_cells, n_genes, seed), obs=obs, var=var)


def write_10x_h5(path: Path, matrix: sparse.csr_matrix, before_3: bool = False) -> Path:
    """The layout of Cell Ranger 3 and later, or the one before it (a group named after the genome)."""
    n_cells, n_genes = matrix.shape
    with h5py.File(path, "w") as root:
        group = root.create_group("GRCh38" if before_3 else "matrix")
        group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices, matrix.indptr
        group["shape"] = np.array([n_genes, n_cells], dtype=np.int32)
        group["barcodes"] = np.array([f"AAAC-{i}" for i in range(n_cells)], dtype="S")
        ids = np.array([f"ENSG{i:011d}" for i in range(n_genes)], dtype="S")
        names = np.array([f"G{i}" for i in range(n_genes)], dtype="S")
        if before_3:
            group["genes"], group["gene_names"] = ids, names
            return path
        features = group.create_group("features")
        features["id"], features["name"] = ids, names
        features["feature_type"] = np.array(["Gene Expression"] * n_genes, dtype="S")
        features["genome"] = np.array(["GRCh38"] * n_genes, dtype="S")
    return path


def write_10x_mtx(folder: Path, matrix: sparse.csr_matrix, gzipped: bool, shuffled: bool = False) -> Path:
    """Entries as Cell Ranger writes them (by cell), or in any order."""
    folder.mkdir(parents=True)
    n_cells, n_genes = matrix.shape
    by_gene = sparse.coo_matrix(matrix.T)
    order = np.argsort(by_gene.col, kind="stable")
    if shuffled:
        order = np.random.default_rng(0).permutation(by_gene.nnz)
    entries = zip(by_gene.row[order] + 1, by_gene.col[order] + 1, by_gene.data[order], strict=True)
    text = f"%%MatrixMarket matrix coordinate integer general\n%metadata\n{n_genes} {n_cells} {matrix.nnz}\n"
    text += "".join(f"{gene} {cell} {count}\n" for gene, cell, count in entries)
    genes = "".join(
        f"ENSG{i:011d}\tG{i}" + ("\tGene Expression\n" if gzipped else "\n") for i in range(n_genes)
    )
    files = {
        "matrix.mtx": text,
        "barcodes.tsv": "".join(f"AAAC-{i}\n" for i in range(n_cells)),
        "features.tsv" if gzipped else "genes.tsv": genes,
    }
    for name, content in files.items():
        if gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
        else:
            (folder / name).write_text(content)
    return folder
