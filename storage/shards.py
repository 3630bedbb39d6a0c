"""Numbers on disk: our own writer and reader of sharded zarr v3 arrays of one dimension.

A shard object is one file of the zarr v3 `sharding_indexed` codec (zarr-specs, codecs/sharding-indexed
1.0): inner chunks of 65,536 elements, each `bytes -> blosc(zstd 3, shuffle) -> crc32c`, in order, then
the index (offset and size of every chunk, uint64) with its own crc32c. Any zarr v3 implementation reads
it. We write it ourselves because a member must have the same bytes each time it is written and must
appear whole: zarrs writes shards in place and in arbitrary order. We read it ourselves because both zarr
implementations read a missing shard as zeros.

Sizes and codec are the measured optimum of `specs/storage.md` section 2: 11.0 bits per non-zero count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import blosc

from storage.durable_files import Buffer
from storage.errors import DamagedDataset
from storage.locations import Location

CHUNK_ELEMENTS = 1 << 16
SHARD_ELEMENTS = 1 << 26
_CRC_BYTES = 4
_ABSENT = (1 << 64) - 1
# One request of this many wasted bytes costs less than a second request, on disk and in an object store.
_COALESCE_GAP = 1 << 18
_REQUEST_BYTES = 1 << 26

# Blosc's own threads append what they finish in the order they finish: the bytes would differ between runs.
blosc.use_threads = False

Ranges = Sequence[tuple[int, int]]
Put = Callable[[str, Buffer], None]


def _checksum(payload: Buffer) -> bytes:
    return int(google_crc32c.value(bytes(payload))).to_bytes(_CRC_BYTES, "little")


def encode_chunk(values: npt.NDArray[Any]) -> bytes:
    """One inner chunk: little-endian elements, shuffled, zstd 3, crc32c at the end."""
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    packed: bytes = blosc.compress(little, b"zstd", 3, blosc.SHUFFLE, 0)
    return packed + _checksum(packed)


def _element_codecs(dtype: np.dtype[Any]) -> list[dict[str, Any]]:
    packing = {"typesize": dtype.itemsize, "cname": "zstd", "clevel": 3, "shuffle": "shuffle", "blocksize": 0}
    return [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "blosc", "configuration": packing},
        {"name": "crc32c"},
    ]


def array_metadata(n: int, dtype: np.dtype[Any], chunk: int, codecs: list[dict[str, Any]]) -> bytes:
    """The `zarr.json` of a one-dimensional array with outer chunks (shards) of `chunk` elements."""
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [n],
            "data_type": dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": codecs,
            "attributes": {},
            "storage_transformers": [],
        }
    ).encode()


def put_single_chunk(name: str, values: npt.NDArray[Any], put: Put) -> None:
    """Write an array that fits one chunk (an `indptr`) with the same codecs and no sharding."""
    if len(values):
        put(f"{name}/c/0", encode_chunk(values))
    codecs = _element_codecs(values.dtype)
    put(f"{name}/zarr.json", array_metadata(len(values), values.dtype, max(len(values), 1), codecs))


class ShardedArrayWriter:
    """Writes `name/c/<shard>` and, on `close`, `name/zarr.json` through `put`.

    Holds one compressed shard (about 70 MB of gene indices) in memory, however long the array.
    """

    def __init__(
        self, name: str, dtype: npt.DTypeLike, put: Put, shard_elements: int = SHARD_ELEMENTS
    ) -> None:
        if shard_elements % CHUNK_ELEMENTS:
            raise ValueError(f"shard_elements {shard_elements} is not a multiple of {CHUNK_ELEMENTS}")
        self.name, self.dtype, self.shard_elements = name, np.dtype(dtype), shard_elements
        self.n = 0
        self._put = put
        self._waiting: list[npt.NDArray[Any]] = []  # less than one chunk in total, between calls
        self._n_waiting = 0
        self._chunks: list[bytes] = []
        self._n_shards = 0

    def append(self, values: npt.NDArray[Any]) -> None:
        """Add elements; they must fit the array's type, which is not checked here."""
        self._waiting.append(values.astype(self.dtype))
        self._n_waiting += len(values)
        self.n += len(values)
        if self._n_waiting < CHUNK_ELEMENTS:
            return
        together = np.concatenate(self._waiting)
        whole = len(together) - len(together) % CHUNK_ELEMENTS
        for start in range(0, whole, CHUNK_ELEMENTS):
            self._add_chunk(together[start : start + CHUNK_ELEMENTS])
        self._waiting, self._n_waiting = [together[whole:].copy()], len(together) - whole

    def close(self) -> None:
        """Write what is left and the metadata; the array exists from here on."""
        if self._n_waiting:
            # A zarr chunk always has its full size; what lies beyond the array's end is fill.
            padded = np.zeros(CHUNK_ELEMENTS, self.dtype)
            padded[: self._n_waiting] = np.concatenate(self._waiting)
            self._add_chunk(padded)
        self._put_shard()
        index_codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        sharding = {
            "chunk_shape": [CHUNK_ELEMENTS],
            "codecs": _element_codecs(self.dtype),
            "index_codecs": index_codecs,
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": sharding}]
        self._put(f"{self.name}/zarr.json", array_metadata(self.n, self.dtype, self.shard_elements, codecs))

    def _add_chunk(self, values: npt.NDArray[Any]) -> None:
        self._chunks.append(encode_chunk(values))
        if len(self._chunks) == self.shard_elements // CHUNK_ELEMENTS:
            self._put_shard()

    def _put_shard(self) -> None:
        if not self._chunks:
            return
        index = np.full((self.shard_elements // CHUNK_ELEMENTS, 2), _ABSENT, dtype="<u8")
        sizes = np.array([len(chunk) for chunk in self._chunks], dtype="<u8")
        index[: len(sizes), 0] = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        index[: len(sizes), 1] = sizes
        table = index.tobytes()
        self._put(f"{self.name}/c/{self._n_shards}", b"".join([*self._chunks, table, _checksum(table)]))
        self._chunks = []
        self._n_shards += 1


@dataclass(frozen=True)
class _Piece:
    """Elements `[low, high)` of one inner chunk, wanted at `position` of the result."""

    position: int
    low: int
    high: int


@cache
def _decoders() -> ThreadPoolExecutor:
    # Decoding releases the GIL and is what limits reading; more threads than four wait for memory.
    return ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0))), thread_name_prefix="decode")


class ShardedArray:
    """Reader of one array written by `ShardedArrayWriter`; metadata is parsed once, shard indices are kept.

    A missing object, a truncated one or a flipped bit raises DamagedDataset with the object's name;
    nothing is ever replaced by a fill value. `sizes` (object name -> bytes, from a snapshot) saves one
    request per shard.
    """

    def __init__(self, location: Location, name: str, sizes: Mapping[str, int] | None = None) -> None:
        self.location, self.name = location, name
        self._sizes = sizes or {}
        self._indices: dict[int, npt.NDArray[np.uint64]] = {}
        meta = _read_metadata(location, f"{name}/zarr.json")
        try:
            (self.n,) = meta["shape"]
            (self.shard_elements,) = meta["chunk_grid"]["configuration"]["chunk_shape"]
            (sharding,) = meta["codecs"]
            (self.chunk_elements,) = sharding["configuration"]["chunk_shape"]
            self.dtype = np.dtype(meta["data_type"]).newbyteorder("<")
            names = [codec["name"] for codec in sharding["configuration"]["codecs"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedDataset(f"{location}/{name}/zarr.json: not a sharded 1-D array ({error})") from error
        if names != ["bytes", "blosc", "crc32c"]:
            expected = "expected bytes, blosc, crc32c"
            raise DamagedDataset(f"{location}/{name}/zarr.json: codecs {names}, {expected}")

    def read(self, ranges: Ranges) -> npt.NDArray[Any]:
        """The elements of all ranges `[start, stop)`, concatenated in the order given."""
        out = np.empty(sum(stop - start for start, stop in ranges), self.dtype)
        for shard, wanted in self._pieces(ranges).items():
            self._read_shard(shard, wanted, out)
        return out

    def _pieces(self, ranges: Ranges) -> dict[int, dict[int, list[_Piece]]]:
        """shard -> inner chunk -> pieces. A chunk that several ranges touch is decoded once."""
        pieces: dict[int, dict[int, list[_Piece]]] = {}
        per_shard, position = self.shard_elements // self.chunk_elements, 0
        for start, stop in ranges:
            if not 0 <= start <= stop <= self.n:
                raise IndexError(f"{self.name}: elements {start}-{stop} of an array of {self.n}")
            while start < stop:
                chunk = start // self.chunk_elements
                first = chunk * self.chunk_elements
                end = min(stop, first + self.chunk_elements)
                shard, inner = divmod(chunk, per_shard)
                piece = _Piece(position, start - first, end - first)
                pieces.setdefault(shard, {}).setdefault(inner, []).append(piece)
                position += end - start
                start = end
        return pieces

    def _read_shard(self, shard: int, wanted: dict[int, list[_Piece]], out: npt.NDArray[Any]) -> None:
        index, object_name = self._index(shard), f"{self.name}/c/{shard}"
        spans = sorted((int(index[inner, 0]), int(index[inner, 1]), inner) for inner in wanted)
        if spans[-1][0] == _ABSENT:
            raise DamagedDataset(f"{self.location}/{object_name}: inner chunk {spans[-1][2]} is not there")

        def decode(payload: memoryview, inner: int) -> None:
            where = f"{self.location}/{object_name}, inner chunk {inner}"
            _decode_into(payload, wanted[inner], out, self.chunk_elements, where)

        for group in _coalesced(spans):
            begin, end = group[0][0], max(offset + size for offset, size, _ in group)
            (payload,) = self._read(object_name, [(begin, end)])
            view = memoryview(payload)
            parts = [view[offset - begin : offset - begin + size] for offset, size, _ in group]
            numbers = [inner for _, _, inner in group]
            # A pool costs more than it saves for two chunks.
            mapper = map if len(group) < 3 else _decoders().map
            for _ in mapper(decode, parts, numbers):
                pass

    def _index(self, shard: int) -> npt.NDArray[np.uint64]:
        if shard not in self._indices:
            name = f"{self.name}/c/{shard}"
            n_chunks = self.shard_elements // self.chunk_elements
            length = n_chunks * 16 + _CRC_BYTES
            try:
                size = self._sizes.get(name) or self.location.size(name)
            except FileNotFoundError as error:
                raise DamagedDataset(f"{self.location}/{name}: missing") from error
            if size < length:
                raise DamagedDataset(f"{self.location}/{name}: truncated; {size} bytes do not hold its index")
            (table,) = self._read(name, [(size - length, size)])
            if _checksum(table[:-_CRC_BYTES]) != table[-_CRC_BYTES:]:
                raise DamagedDataset(f"{self.location}/{name}: the shard index does not match its checksum")
            self._indices[shard] = np.frombuffer(table[:-_CRC_BYTES], dtype="<u8").reshape(n_chunks, 2)
        return self._indices[shard]

    def _read(self, name: str, ranges: Ranges) -> list[bytes]:
        try:
            return self.location.read_ranges(name, ranges)
        except FileNotFoundError as error:
            raise DamagedDataset(f"{self.location}/{name}: missing") from error


def read_single_chunk(location: Location, name: str) -> npt.NDArray[Any]:
    """The whole array written by `put_single_chunk`. Raises DamagedDataset."""
    meta = _read_metadata(location, f"{name}/zarr.json")
    dtype, (n,) = np.dtype(meta["data_type"]), meta["shape"]
    out = np.empty(n, dtype)
    if n:
        object_name = f"{name}/c/0"
        try:
            payload = location.read(object_name)
        except FileNotFoundError as error:
            raise DamagedDataset(f"{location}/{object_name}: missing") from error
        _decode_into(memoryview(payload), [_Piece(0, 0, n)], out, n, f"{location}/{object_name}")
    return out


def _read_metadata(location: Location, name: str) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads(location.read(name))
    except FileNotFoundError as error:
        raise DamagedDataset(f"{location}/{name}: missing") from error
    except ValueError as error:
        raise DamagedDataset(f"{location}/{name}: not JSON ({error})") from error
    return meta


def _coalesced(spans: list[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """Groups of (offset, size, chunk), sorted by offset, each to be fetched with one request."""
    groups = [[spans[0]]]
    for span in spans[1:]:
        group = groups[-1]
        end = group[-1][0] + group[-1][1]
        if span[0] - end <= _COALESCE_GAP and span[0] + span[1] - group[0][0] <= _REQUEST_BYTES:
            group.append(span)
        else:
            groups.append([span])
    return groups


def _decode_into(
    payload: memoryview, pieces: list[_Piece], out: npt.NDArray[Any], chunk_elements: int, where: str
) -> None:
    packed, stored = payload[:-_CRC_BYTES], payload[-_CRC_BYTES:]
    if len(payload) <= _CRC_BYTES or _checksum(packed) != bytes(stored):
        raise DamagedDataset(f"{where}: bytes do not match their crc32c checksum; restore or ingest again")
    first = pieces[0]
    if len(pieces) == 1 and first.high - first.low == chunk_elements:
        blosc.decompress(packed, out[first.position : first.position + chunk_elements])
        return
    values = np.empty(chunk_elements, out.dtype)
    blosc.decompress(packed, values)
    for piece in pieces:
        out[piece.position : piece.position + piece.high - piece.low] = values[piece.low : piece.high]
