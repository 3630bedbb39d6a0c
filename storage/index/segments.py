"""One segment: vectors, short codes, norms, ids and annotations of some cells, each array one raw file.

Little-endian, row after row, no header: `numpy.memmap` opens them, and so does anything else.
Shape legend: N rows, D width, S width of the short codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.commits import Snapshot
from storage.durable_files import Buffer
from storage.index import cell_tables
from storage.index.short_codes import Float32, ShortCodes

VECTORS, SHORT, NORMS, IDS, OBS, IVF = (
    "vectors.f16", "short.i8", "norms.f32", "ids.i64", "obs.arrow", "ivf.faiss",
)  # fmt: skip


class SegmentArrays(NamedTuple):
    """The rows of a segment, in memory or mapped."""

    vectors: npt.NDArray[np.float16]
    """`[N, D]`, unit length."""
    short: npt.NDArray[np.int8]
    """`[N, S]`, of the vectors before they were rounded to float16."""
    norms: Float32
    """`[N]`, length of the vectors as they came: what turns a cosine into an inner product."""
    ids: npt.NDArray[np.int64]
    """`[N]`"""
    obs: pa.Table
    """N rows; the column `name` is the cells' names."""


def object_name(key: str, part: str) -> str:
    return f"segments/{key}/{part}"


def make_segment(
    pieces: Iterable[Float32],
    obs: pa.Table,
    first_id: int,
    codes: ShortCodes,
    sort_by: Sequence[str],
) -> SegmentArrays:
    """A segment of the cells `first_id, first_id + 1, ...`, whose vectors come in `pieces` of rows.

    Rows are sorted by the given columns, which makes a common condition a few runs of rows. Cells whose
    vector is not finite or has no length (a cell without tokens) are left out: nothing is like them.
    """
    n, width = len(obs), len(codes.mean_D)
    order = cell_tables.order_of(obs, sort_by)
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    vectors = np.empty((n, width), np.dtype("<f2"))
    short, norms = np.empty((n, codes.width), np.int8), np.empty(n, np.dtype("<f4"))
    start = 0
    for x_ND in pieces:
        where = place[start : start + len(x_ND)]
        unit_ND, norms[where] = unit_vectors(x_ND)
        vectors[where], short[where] = unit_ND, codes.encode(unit_ND)
        start += len(x_ND)
    if start != n:
        raise ValueError(f"{start} vectors for {n} cells")
    made = SegmentArrays(vectors, short, norms, (first_id + order).astype("<i8"), obs.take(pa.array(order)))
    return made if (norms > 0).all() else take(made, np.flatnonzero(norms > 0))


def unit_vectors(x_ND: Float32) -> tuple[Float32, Float32]:
    """Rows scaled to unit length, and their lengths; a row without one is zeros with length 0."""
    norms = np.sqrt(np.einsum("nd,nd->n", x_ND, x_ND, dtype=np.float64))
    usable = np.isfinite(norms) & (norms > 0)
    unit_ND = np.where(usable[:, None], x_ND, np.float32(0)) / np.where(usable, norms, 1.0)[:, None]
    return unit_ND.astype(np.float32), np.where(usable, norms, 0.0).astype(np.float32)


def take(rows: SegmentArrays, chosen: npt.NDArray[np.int64]) -> SegmentArrays:
    """The chosen rows, in the order given."""
    return SegmentArrays(
        rows.vectors.take(chosen, axis=0),
        rows.short.take(chosen, axis=0),
        rows.norms.take(chosen),
        rows.ids.take(chosen),
        rows.obs.take(pa.array(chosen)),
    )


def join(parts: Sequence[SegmentArrays]) -> SegmentArrays:
    """The rows of several segments one after the other."""
    return SegmentArrays(
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.short for part in parts]),
        np.concatenate([part.norms for part in parts]),
        np.concatenate([part.ids for part in parts]),
        cell_tables.joined([part.obs for part in parts]),
    )


def segment_objects(key: str, rows: SegmentArrays) -> Iterator[tuple[str, Buffer]]:
    """The objects of a segment: (name, content), the content being views of the arrays."""
    arrays: Mapping[str, npt.NDArray[Any]] = {
        VECTORS: rows.vectors,
        SHORT: rows.short,
        NORMS: rows.norms,
        IDS: rows.ids,
    }
    for part, array in arrays.items():
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        yield object_name(key, part), content.data if content.size else b""
    yield object_name(key, OBS), cell_tables.to_bytes(rows.obs)


def segment_facts(rows: SegmentArrays) -> dict[str, Any]:
    """What the record of a segment states."""
    ids = rows.ids
    span = [int(ids.min()), int(ids.max()) + 1] if len(ids) else [0, 0]
    return {"n_rows": len(ids), "ids": span}


def open_segment(snapshot: Snapshot, key: str, width: int, short_width: int) -> SegmentArrays:
    """The arrays of a committed segment, mapped where they lie on a local disk."""

    def array(part: str, dtype: str) -> npt.NDArray[Any]:
        return mapped(snapshot, object_name(key, part)).view(dtype)

    return SegmentArrays(
        array(VECTORS, "<f2").reshape(-1, width),
        array(SHORT, "i1").reshape(-1, short_width),
        array(NORMS, "<f4"),
        array(IDS, "<i8"),
        cell_tables.from_buffer(mapped(snapshot, object_name(key, OBS))),
    )


def mapped(snapshot: Snapshot, name: str) -> npt.NDArray[np.uint8]:
    """An object as bytes: mapped from a local file, its hash not checked (`inspect --verify` does that), or
    read whole and checked from an object store.

    Mapped pages are shared between processes until written to, which nobody does; read-only ones would make
    torch warn at every turn.
    """
    size = snapshot.all_objects[name].size
    if snapshot.location.local is None or not size:
        buffer = np.empty(size, np.uint8)
        snapshot.read_into(name, buffer)
        return buffer
    return np.memmap(snapshot.location.local / name, np.uint8, mode="c").view(np.ndarray)
