"""The parts of an AnnData file, alike in HDF5 and zarr: X, raw, layers, obs, var, obsm."""

from __future__ import annotations

from typing import Any

import numpy as np

from storage.sources.frames import open_frame
from storage.sources.matrices import CscMatrix, CsrMatrix, DenseMatrix
from storage.sources.source import CountMatrix, Frame, Layout, Source, UnreadableSource, reading


def open_groups(path: str, file_format: str, root: Any, objects: list[str]) -> Source:
    """A Source over an open h5py.File or zarr.Group. Raises UnreadableSource."""
    for name in ("obs", "var"):
        if name not in root:
            raise UnreadableSource(f"{path}: has no {name}; expected an AnnData file. Found: {sorted(root)}.")
    obs, var = open_frame(f"{path}: obs", root["obs"]), open_frame(f"{path}: var", root["var"])
    matrices: dict[str, CountMatrix] = {}
    frames: dict[str, Frame] = {}
    with reading(path):
        places = [("X", "X", var)] if "X" in root else []
        if "raw" in root and "X" in root["raw"] and "var" in root["raw"]:
            places.append(("raw", "raw/X", open_frame(f"{path}: raw/var", root["raw/var"])))
        places += [(f"layer:{name}", f"layers/{name}", var) for name in root.get("layers", {})]
    for key, place, frame in places:
        matrix = open_matrix(f"{path}: {place}", root[place])
        if matrix is None:
            continue
        if matrix.shape != (obs.n, frame.n):
            expected = f"obs and var say {obs.n:,} x {frame.n:,}"
            raise UnreadableSource(
                f"{path}: {place} is {matrix.shape[0]:,} x {matrix.shape[1]:,}, {expected}."
            )
        matrices[key], frames[key] = matrix, frame
    return Source(path, file_format, obs, matrices, frames, objects, _layouts(path, root))


def open_matrix(where: str, element: Any) -> CountMatrix | None:
    """The matrix of one element, or None for an X that AnnData wrote as absent."""
    with reading(where):
        encoding = element.attrs.get("encoding-type", element.attrs.get("h5sparse_format", ""))
        if hasattr(element, "shape"):
            return DenseMatrix(where, element) if len(element.shape) == 2 else None
        if encoding == "null":
            return None
        parts = (element["data"], element["indices"], element["indptr"])
        shape = element.attrs.get("shape", element.attrs.get("h5sparse_shape"))
        n_cells, n_genes = (int(side) for side in shape)
    # `csr` and `csc` alone are the names of AnnData before 0.7.
    if encoding in ("csr_matrix", "csr"):
        return CsrMatrix(where, *parts, (n_cells, n_genes))
    if encoding in ("csc_matrix", "csc"):
        return CscMatrix(where, *parts, (n_cells, n_genes))
    raise UnreadableSource(
        f"{where}: encoding {encoding!r}; expected csr_matrix, csc_matrix or a dense array."
    )


def _layouts(path: str, root: Any) -> dict[str, Layout]:
    with reading(f"{path}: obsm"):
        group = root.get("obsm", {})
        return {str(name): _layout(group[name]) for name in group}


def _layout(element: Any) -> Layout:
    if hasattr(element, "shape"):
        shape = tuple(int(side) for side in element.shape)
        return Layout(
            "array", shape, np.dtype(element.dtype), lambda start, stop: np.asarray(element[start:stop])
        )
    return Layout(str(element.attrs.get("encoding-type", "group")), (), None, None)
