"""Embeddings: one vector per cell, committed member by member, and at the same time one AnnData zarr.

    X/c/<k>/0         member k: consecutive cells, one chunk of the zarr v3 array X (float32, bytes + crc32c)
    n_tokens/<key>    the same cells: how many tokens the model saw of each (int32, little-endian)
    X/zarr.json, obs/, var/, uns/, zarr.json    root objects, written when all members are committed

`anndata.read_zarr(PATH)` opens it whole. All chunks of a zarr array have one size, so the last one is filled
up with NaN, and NaN is what a foreign reader sees where a chunk is missing; ours (`Embeddings`) raises.

Shape legend: C cells, D width of the embedding.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pandas as pd

from storage.commits import Dataset, Snapshot, open_snapshot
from storage.errors import DamagedDataset, InputError
from storage.locations import Location

KIND = "embeddings"
_CRC_BYTES = 4
_CHECKED_BYTES = 16 << 20
_LITTLE = np.dtype("<f4")

Float32 = npt.NDArray[np.float32]


def chunk_name(key: str) -> str:
    """Name of the chunk of member `key`; keys of embedding members are the numbers 0, 1, 2, ..."""
    return f"X/c/{int(key)}/0"


def token_counts_name(key: str) -> str:
    return f"n_tokens/{key}"


def embedding_chunk(e_CD: Float32, key: str, start: int) -> bytes:
    """The chunk object of member `key`, whose first cell is row `start`: rows, then their crc32c.

    Every member before this one has start / key cells, which says how far the last one has to be filled up.
    """
    number = int(key)
    chunk_cells = start // number if number else len(e_CD)
    if number and (start % number or len(e_CD) > chunk_cells):
        raise ValueError(
            f"member {key} with {len(e_CD)} cells from row {start} on: chunks of equal size expected"
        )
    rows = np.full((chunk_cells, e_CD.shape[1]), np.nan, dtype=_LITTLE)
    rows[: len(e_CD)] = e_CD
    payload = rows.tobytes()
    return payload + _checksum(payload)


def read_token_counts(dataset: Dataset) -> npt.NDArray[np.int32]:
    """Tokens per cell `[C]`, from the members of a dataset about to be finished."""
    parts = [dataset.location.read(token_counts_name(member.key)) for member in dataset.members]
    return np.frombuffer(b"".join(parts), dtype="<i4").astype(np.int32)


def finish_embeddings(
    dataset: Dataset, obs: pd.DataFrame, uns: Mapping[str, Any] | None = None, var: pd.DataFrame | None = None
) -> Snapshot:
    """Write `obs` (one row per cell, input order), `var`, `uns` and the array's metadata; then the snapshot.

    `uns["syncytium"]` gets the lineage (as JSON text) and its id. Raises ValueError when obs and the members
    do not fit each other, or the members are not one chunk each.
    """
    if dataset.is_complete:
        return dataset.finish()
    chunk_cells, width = _chunk_shape(dataset)
    n_cells = int(dataset.members[-1].facts["stop"])
    if len(obs) != n_cells:
        raise ValueError(f"{dataset.location}: obs has {len(obs)} rows, the members {n_cells} cells")
    if var is None:
        var = pd.DataFrame(index=pd.Index([str(dim) for dim in range(width)]))
    made_by = {"lineage": json.dumps(dataset.lineage, sort_keys=True), "lineage_id": dataset.lineage_id}
    elements = {"obs": _writable(obs), "var": var, "uns": {**(uns or {}), "syncytium": made_by}}
    objects = _anndata_objects(elements, _array_metadata((n_cells, width), (chunk_cells, width)))
    return dataset.finish(objects, {"n_cells": n_cells, "width": width, "chunk_cells": chunk_cells})


class Embeddings:
    """Reader of a finished embeddings dataset. Pickles as its path; use `open`."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.lineage = snapshot.lineage
        self.dataset_id = snapshot.dataset_id
        self.n_cells: int = snapshot.facts["n_cells"]
        self.width: int = snapshot.facts["width"]
        self.chunk_cells: int = snapshot.facts["chunk_cells"]
        self._chunks: dict[int, Float32] = {}

    @classmethod
    def open(cls, path: Location | str) -> Embeddings:
        """Raises InputError when no finished embeddings are there, DamagedDataset when parts are missing."""
        snapshot = open_snapshot(Location.of(path), KIND)
        snapshot.check_sizes()
        return cls(snapshot)

    def __len__(self) -> int:
        return self.n_cells

    def read(self, start: int, stop: int) -> Float32:
        """Rows `[start, stop)`, float32 `[C, D]`; touches only the chunks that hold them."""
        if not 0 <= start <= stop <= self.n_cells:
            raise IndexError(f"rows {start} to {stop} of {self.n_cells}")
        e_CD = np.empty((stop - start, self.width), dtype=np.float32)
        for number in range(start // self.chunk_cells, -(-stop // self.chunk_cells) if stop > start else 0):
            first = number * self.chunk_cells
            lower, upper = max(start, first), min(stop, first + self.chunk_cells)
            e_CD[lower - start : upper - start] = self._chunk(number)[lower - first : upper - first]
        return e_CD

    def rows(self, cells: npt.NDArray[np.integer[Any]]) -> Float32:
        """The rows of these cells, float32 `[C, D]`, in this order and as often as asked.

        Chunks in a local directory are mapped and checked once, so that training may ask for any rows
        without holding all of them; of an object store the chunks asked for are kept in memory.
        """
        numbers, within = np.divmod(np.asarray(cells, np.int64), self.chunk_cells)
        if len(numbers) and not 0 <= int(cells.min()) <= int(cells.max()) < self.n_cells:
            raise IndexError(f"rows {cells.min()} to {cells.max()} of {self.n_cells}")
        e_CD = np.empty((len(numbers), self.width), dtype=np.float32)
        for number in np.unique(numbers):
            places = np.flatnonzero(numbers == number)
            e_CD[places] = self._kept(int(number))[within[places]]
        return e_CD

    @cached_property
    def X(self) -> Float32:  # noqa: N802 - AnnData's name for it
        """All rows, float32 `[C, D]`, read once and kept."""
        return self.read(0, self.n_cells)

    @cached_property
    def obs(self) -> pd.DataFrame:
        """The cells' annotations, one row per cell in the order of X."""
        return pd.DataFrame(self._element("obs"))

    @cached_property
    def uns(self) -> dict[str, Any]:
        return dict(self._element("uns"))

    def __reduce__(self) -> tuple[Any, ...]:
        return Embeddings, (self.snapshot,)

    def _kept(self, number: int) -> Float32:
        """The chunk, mapped where it is a local file."""
        if number not in self._chunks:
            directory = self.snapshot.location.local
            if directory is None:
                self._chunks[number] = self._chunk(number)
            else:
                content = np.memmap(directory / chunk_name(str(number)), mode="r")
                self._chunks[number] = self._checked(chunk_name(str(number)), content.data)
        return self._chunks[number]

    def _chunk(self, number: int) -> Float32:
        name = chunk_name(str(number))
        return self._checked(name, memoryview(self.snapshot.read(name)))

    def _checked(self, name: str, content: memoryview) -> Float32:
        payload, checksum = content[:-_CRC_BYTES], content[-_CRC_BYTES:]
        if _checksum(payload) != checksum:
            raise DamagedDataset(f"{self.snapshot.location}/{name}: crc32c does not match its content")
        return np.frombuffer(payload, dtype=_LITTLE).reshape(self.chunk_cells, self.width)

    def _element(self, element: str) -> Any:
        import zarr
        from anndata.io import read_elem
        from zarr.core.buffer import default_buffer_prototype

        buffer = default_buffer_prototype().buffer
        names = [name for name in self.snapshot.objects if name.startswith(f"{element}/")]
        store = {name: buffer.from_bytes(self.snapshot.read(name)) for name in names}
        return read_elem(zarr.open_group(store, path=element, mode="r"))


def _checksum(payload: bytes | memoryview) -> bytes:
    crc = 0
    # Piece by piece: the library takes bytes only, and a mapped chunk is not to be in memory as a whole.
    for start in range(0, len(payload), _CHECKED_BYTES):
        crc = google_crc32c.extend(crc, bytes(payload[start : start + _CHECKED_BYTES]))
    return int(crc).to_bytes(_CRC_BYTES, "little")


def _chunk_shape(dataset: Dataset) -> tuple[int, int]:
    """(cells per chunk, width), from the sizes of the committed chunks."""
    if not dataset.members:
        raise InputError(f"{dataset.location}: no cells to embed")
    first = dataset.members[0].facts
    chunk_cells = int(first["stop"]) - int(first["start"])
    sizes = set()
    for number, record in enumerate(dataset.records()):
        if int(record.key) != number:
            raise ValueError(f"{dataset.location}: member {record.key} is not chunk {number}")
        sizes.add(record.objects[chunk_name(record.key)].size)
    values, rest = divmod(min(sizes) - _CRC_BYTES, _LITTLE.itemsize * chunk_cells)
    if len(sizes) > 1 or rest:
        raise ValueError(f"{dataset.location}: chunks of {sorted(sizes)} bytes; all must be equal")
    return chunk_cells, values


def _array_metadata(shape: tuple[int, int], chunk_shape: tuple[int, int]) -> bytes:
    """`zarr.json` of X (zarr v3 core specification; AnnData's dense array encoding 0.2.0)."""
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": shape,
            "data_type": "float32",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "NaN",
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "attributes": {"encoding-type": "array", "encoding-version": "0.2.0"},
            "storage_transformers": [],
        }
    ).encode()


def _anndata_objects(elements: Mapping[str, Any], array_metadata: bytes) -> dict[str, bytes]:
    """The objects of an AnnData around X, the root `zarr.json` last.

    The root carries consolidated metadata: it saves a reader one request per array, and keeps zarr from
    looking at the log and the leases that lie in the same directory.
    """
    import anndata
    import zarr
    from anndata.io import write_elem
    from zarr.core.buffer import Buffer, default_buffer_prototype

    store: dict[str, Buffer] = {}
    root = zarr.open_group(store, mode="w", zarr_format=3)
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    with anndata.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False):
        for name, element in elements.items():
            write_elem(root, name, element)
        for name in ("layers", "obsm", "obsp", "varm", "varp"):
            write_elem(root, name, {})
    store["X/zarr.json"] = default_buffer_prototype().buffer.from_bytes(array_metadata)
    with warnings.catch_warnings():
        # zarr-python says that other readers may ignore consolidated metadata; that is all they would do.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(store, zarr_format=3)
    names = sorted(store, key=lambda name: (name == "zarr.json", name))
    return {name: store[name].to_bytes() for name in names}


def _writable(obs: pd.DataFrame) -> pd.DataFrame:
    """A copy whose columns AnnData can write: text with missing values becomes categorical."""
    obs = obs.copy()
    obs.index = obs.index.astype(str)
    for column in obs.columns:
        text = pd.api.types.is_object_dtype(obs[column]) or pd.api.types.is_string_dtype(obs[column])
        if text and not isinstance(obs[column].dtype, pd.CategoricalDtype):
            known = obs[column].where(obs[column].isna(), obs[column].astype(str))
            obs[column] = known.astype("category") if known.isna().any() else known.astype(object)
    return obs
