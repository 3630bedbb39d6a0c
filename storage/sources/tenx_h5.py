"""10x Genomics HDF5 (`*_feature_bc_matrix.h5`): Cell Ranger 3 and later, and the layout before it."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd

from storage.sources.frames import TableFrame
from storage.sources.hdf5 import open_hdf5
from storage.sources.matrices import CsrMatrix
from storage.sources.source import Source, UnreadableSource, reading


def recognises(root: h5py.File) -> bool:
    return "matrix" in root or bool(_genomes(root))


def open(path: str) -> Source:
    """Raises UnreadableSource. Counts are `X`; `var` is indexed by symbol and has `gene_ids`."""
    root = open_hdf5(path)
    with reading(path):
        group, var = _current(root) if "matrix" in root else _before_3(path, root)
        barcodes = _strings(group["barcodes"])
        n_genes, n_cells = (int(side) for side in group["shape"][:])
    # 10x stores genes x cells by column, which is cells x genes by row.
    parts = (group["data"], group["indices"], group["indptr"])
    matrix = CsrMatrix(f"{path}: {group.name.strip('/')}", *parts, (n_cells, n_genes))
    if len(barcodes) != n_cells or len(var) != n_genes:
        found = f"{len(barcodes):,} barcodes and {len(var):,} features"
        raise UnreadableSource(f"{path}: {found} for a matrix of {n_cells:,} cells x {n_genes:,} genes.")
    obs, frame = TableFrame(pd.DataFrame(index=pd.Index(barcodes))), TableFrame(var)
    return Source(path, "10x h5", obs, {"X": matrix}, {"X": frame}, [path], closers=[root.close])


def _current(root: h5py.File) -> tuple[Any, pd.DataFrame]:
    group = root["matrix"]
    features = group["features"]
    columns = {"gene_ids": _strings(features["id"]), "feature_types": _strings(features["feature_type"])}
    if "genome" in features:
        columns["genome"] = _strings(features["genome"])
    return group, pd.DataFrame(columns, index=pd.Index(_strings(features["name"])))


def _before_3(path: str, root: h5py.File) -> tuple[Any, pd.DataFrame]:
    genomes = _genomes(root)
    if len(genomes) != 1:
        raise UnreadableSource(
            f"{path}: holds the genomes {genomes}; expected one. Export each one to its own file."
        )
    group = root[genomes[0]]
    columns = {
        "gene_ids": _strings(group["genes"]),
        "genome": np.full(len(group["genes"]), genomes[0], dtype=object),
    }
    return group, pd.DataFrame(columns, index=pd.Index(_strings(group["gene_names"])))


def _genomes(root: h5py.File) -> list[str]:
    return [name for name in root if isinstance(root[name], h5py.Group) and "gene_names" in root[name]]


def _strings(dataset: Any) -> npt.NDArray[Any]:
    return np.asarray(dataset.asstr()[:], dtype=object)
