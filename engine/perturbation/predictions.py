"""Predicted cells as an AnnData file of any community's contract, written perturbation by perturbation.

X: drawn cells (`engine.perturbation.drawn_cells`), or one row a perturbation that is the mean itself.
varm: `delta`, `mean`, `uncertainty`, a column a perturbation (`uns["perturbations"]`, CONTEXT|TARGETS).

Legend: C cells, G genes, Q perturbations.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import anndata
import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from engine.perturbation.labels import Contract, written
from engine.perturbation.normalise import log_normalised
from storage.errors import InputError
from storage.locations import Location

LINEAGE = "syncytium_lineage"
# Chunks of the compressed arrays: a megabyte of values.
_CHUNK = 1 << 18


@dataclass
class PredictionFile:
    """Cells are appended; the file appears at its place, whole, when the block is left without an error."""

    location: Location
    genes: Sequence[str]
    contract: Contract
    lineage: str
    _obs: list[pd.DataFrame] = field(default_factory=list)
    _columns: dict[str, list[npt.NDArray[np.float32]]] = field(default_factory=dict)
    _names: list[str] = field(default_factory=list)
    _nnz: int = 0

    def __enter__(self) -> PredictionFile:
        self._folder = tempfile.TemporaryDirectory(prefix="syncytium-predictions-")
        self._path = Path(self._folder.name, "predictions.h5ad")
        self._file = h5py.File(self._path, "w")
        self._file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        group = self._file.create_group("X")
        for name, kind in (("data", np.float32), ("indices", np.int32)):
            group.create_dataset(
                name, (0,), kind, maxshape=(None,), chunks=(_CHUNK,), compression="gzip", compression_opts=3
            )
        self._pointers = [np.zeros(1, np.int64)]
        return self

    def add(
        self, counts_or_logs_CG: sparse.csr_matrix, parts: tuple[str, ...], control: str, context: str
    ) -> None:
        """Append cells on the contract's scale. No parts: control cells, under the contract's label."""
        label = written(parts, self.contract) if parts else (self.contract.control or control)
        matrix_CG = counts_or_logs_CG.astype(np.float32)
        matrix_CG.sort_indices()
        group = self._file["X"]
        for name, values in (("data", matrix_CG.data), ("indices", matrix_CG.indices.astype(np.int32))):
            group[name].resize((self._nnz + len(values),))
            group[name][self._nnz :] = values
        self._pointers.append(matrix_CG.indptr[1:].astype(np.int64) + self._nnz)
        self._nnz += int(matrix_CG.nnz)
        labels = {self.contract.perturbation: label, **dict.fromkeys(self.contract.contexts, context)}
        self._obs.append(pd.DataFrame(labels, index=range(matrix_CG.shape[0])))

    def describe(self, name: str, **columns_G: npt.NDArray[Any]) -> None:
        """What is predicted of a perturbation, gene by gene: columns of `varm`."""
        self._names.append(name)
        for key, values in columns_G.items():
            self._columns.setdefault(key, []).append(np.asarray(values, np.float32))

    @property
    def n_cells(self) -> int:
        return sum(map(len, self._obs))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
            self._file.close()
            if kind is None:
                folder, _, name = str(self.location).rpartition("/")
                Location.of(folder or "/").put_file(name, self._on_its_disk(folder))
        finally:
            self._folder.cleanup()

    def _finish(self) -> None:
        obs = pd.concat(self._obs, ignore_index=True).astype("category")
        obs.index = pd.Index([f"cell_{number:08d}" for number in range(len(obs))])
        pointers = np.concatenate(self._pointers)
        group = self._file["X"]
        group.create_dataset("indptr", data=pointers, compression="gzip")
        shape = np.array([len(obs), len(self.genes)], dtype=np.int64)
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})
        names = pd.Index(list(self.genes))
        var = pd.DataFrame({"gene_name": names.to_numpy(dtype=object)}, index=names)
        varm = {key: np.stack(columns, axis=1) for key, columns in self._columns.items()}
        uns = {"perturbations": np.array(self._names, dtype=object), LINEAGE: self.lineage}
        if not self.contract.counts:
            uns["log1p"] = {}
        for name, element in (("obs", obs), ("var", var), ("varm", varm), ("uns", uns)):
            anndata.io.write_elem(self._file, name, element)
        for name in ("layers", "obsm", "obsp", "varp"):
            anndata.io.write_elem(self._file, name, {})

    def _on_its_disk(self, folder: str) -> Path:
        """The finished file on the disk it is to lie on: only there is a move a rename."""
        place = Location.of(folder or "/")
        if place.local is None:
            return self._path
        place.local.mkdir(parents=True, exist_ok=True)
        near = place.local / f".{os.getpid()}-predictions.h5ad.tmp"
        near.write_bytes(b"")
        with open(self._path, "rb") as source, open(near, "wb") as target:
            while piece := source.read(16 << 20):
                target.write(piece)
        return near


def on_scale(counts_CG: sparse.csr_matrix, contract: Contract) -> sparse.csr_matrix:
    """Counts, or log1p of them scaled to 10,000, as the contract wants."""
    return counts_CG if contract.counts else log_normalised(counts_CG)


def is_there(location: Location, lineage: str, *, overwrite: bool) -> bool:
    """Whether exactly these predictions are already in the file. Raises InputError when others are."""
    if location.local is None or not location.local.exists() or overwrite:
        return False
    found = None
    if location.local.is_file() and h5py.is_hdf5(location.local):
        with h5py.File(location.local, "r") as file:
            found = file[f"uns/{LINEAGE}"].asstr()[()] if f"uns/{LINEAGE}" in file else None
    if found == lineage:
        return True
    raise InputError(
        f"{location}: is there already and holds something else; give another --output, or --overwrite."
    )


def asked(text: str) -> list[str]:
    """Labels of `--perturbations`: separated by commas, or a file with one a line (a header named as a
    perturbation column is skipped). Raises InputError when there are none.
    """
    from engine.perturbation.labels import PERTURBATION_COLUMNS

    location = Location.of(text)
    if "," not in text and location.local is not None and location.local.is_file():
        lines = [line.split(",")[0].strip().strip('"') for line in location.read().decode().splitlines()]
        labels = [line for line in lines if line and line not in PERTURBATION_COLUMNS]
    else:
        labels = [part.strip() for part in text.split(",") if part.strip()]
    if not labels:
        raise InputError(f"--perturbations {text}: names no perturbation.")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise InputError(f"--perturbations: {', '.join(twice[:5])} is named twice.")
    return labels


def lineage_of(**parts: Any) -> str:
    """What a file was made from, hashed."""
    from storage.protocol.snapshots import canonical, hash_of

    return hash_of(canonical(json.loads(json.dumps(parts))))
