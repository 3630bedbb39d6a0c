"""Our own reader of the arrays that `storage.shards` writes.

zarr implementations read a missing shard as zeros; here everything that is not whole is an error by name.
What limits reading is decoding, so the rest is kept off the processor: the index of a shard is read once,
chunks that lie together come with one request, and each is decoded in a buffer that stays in a core's cache
and copied from there to its place in the result, in the type wanted.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs import blosc

from storage import durable_files
from storage.errors import DamagedDataset
from storage.locations import Location
from storage.shards import ABSENT, CRC_BYTES, checksum

Ranges = Sequence[tuple[int, int]]
# Elements [low, high) of an inner chunk and their position in the result.
Piece = tuple[int, int, int]
# (offset, size, number) of an inner chunk in its shard.
Span = tuple[int, int, int]
Read = Callable[[], None]

# Up to so many unwanted bytes are read along rather than asked around: what a second request costs.
_LOCAL_GAP, _REMOTE_GAP = 1 << 14, 1 << 18
# A local request of this size is decoded before it leaves the second-level cache; a remote one has to be
# worth its latency.
_LOCAL_REQUEST, _REMOTE_REQUEST = 1 << 20, 1 << 24
# Decoding releases the GIL; more threads than four wait for memory. Requests to a store wait for the network.
DECODING_THREADS = min(4, len(os.sched_getaffinity(0)))
_REQUESTS_IN_FLIGHT = 16


class ShardedArray:
    """Reader of one array written by `ShardedArrayWriter`; metadata is parsed once, shard indices are kept.

    A missing object, a truncated one or a flipped bit raises DamagedDataset with the object's name; nothing
    is ever replaced by a fill value. `sizes` (object name -> bytes, from a snapshot) saves one request per
    shard.
    """

    def __init__(self, location: Location, name: str, sizes: Mapping[str, int] | None = None) -> None:
        self.location, self.name = location, name
        self._sizes = sizes or {}
        self._indices: dict[int, list[tuple[int, int]]] = {}
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
        positions, position = [], 0
        for start, stop in ranges:
            positions.append(position)
            position += stop - start
        carry_out(self.reads(ranges, positions, out), self.location)
        return out

    def reads(self, ranges: Ranges, positions: Sequence[int], out: npt.NDArray[Any]) -> list[Read]:
        """What has to be carried out, in any order or at once, to have range i at `out[positions[i]:]`."""
        reads = []
        for shard, wanted in self._pieces(ranges, positions).items():
            index, name = self._index(shard), f"{self.name}/c/{shard}"
            spans = sorted((*index[inner], inner) for inner in wanted)
            if spans[-1][0] == ABSENT:
                raise DamagedDataset(f"{self.location}/{name}: inner chunk {spans[-1][2]} is not there")
            reads += [self._read_of(name, group, wanted, out) for group in self._requests(spans)]
        return reads

    def _pieces(self, ranges: Ranges, positions: Sequence[int]) -> dict[int, dict[int, list[Piece]]]:
        """shard -> inner chunk -> pieces. A chunk that several ranges touch is decoded once."""
        pieces: dict[int, dict[int, list[Piece]]] = {}
        size, per_shard = self.chunk_elements, self.shard_elements // self.chunk_elements
        for (start, stop), position in zip(ranges, positions, strict=True):
            if not 0 <= start <= stop <= self.n:
                raise IndexError(f"{self.name}: elements {start}-{stop} of an array of {self.n}")
            for chunk in range(start // size, -(-stop // size) if stop > start else 0):
                first = chunk * size
                low, high = max(start - first, 0), min(stop - first, size)
                shard, inner = divmod(chunk, per_shard)
                piece = (position + first + low - start, low, high)
                pieces.setdefault(shard, {}).setdefault(inner, []).append(piece)
        return pieces

    def _requests(self, spans: list[Span]) -> list[list[Span]]:
        """Chunks, sorted by offset, in groups that are fetched with one request each."""
        local = self.location.local is not None
        gap, most = (_LOCAL_GAP, _LOCAL_REQUEST) if local else (_REMOTE_GAP, _REMOTE_REQUEST)
        groups = [[spans[0]]]
        for span in spans[1:]:
            group = groups[-1]
            end = group[-1][0] + group[-1][1]
            if span[0] - end <= gap and span[0] + span[1] - group[0][0] <= most:
                group.append(span)
            else:
                groups.append([span])
        return groups

    def _read_of(
        self, name: str, group: list[Span], wanted: dict[int, list[Piece]], out: npt.NDArray[Any]
    ) -> Read:
        def read() -> None:
            begin, end = group[0][0], max(offset + size for offset, size, _ in group)
            payload = _fetch(self.location, name, begin, end)
            for offset, size, inner in group:
                chunk = payload[offset - begin : offset - begin + size]
                if len(chunk) <= CRC_BYTES or checksum(chunk[:-CRC_BYTES]) != chunk[-CRC_BYTES:].tobytes():
                    raise DamagedDataset(
                        f"{self.location}/{name}, inner chunk {inner}: {_MISMATCH}; restore or ingest again"
                    )
                _decode_into(chunk[:-CRC_BYTES], wanted[inner], out, self.chunk_elements, self.dtype)

        return read

    def _index(self, shard: int) -> list[tuple[int, int]]:
        """(offset, size) of each inner chunk."""
        if shard not in self._indices:
            name = f"{self.name}/c/{shard}"
            n_chunks = self.shard_elements // self.chunk_elements
            length = n_chunks * 16 + CRC_BYTES
            try:
                size = self._sizes.get(name) or self.location.size(name)
            except FileNotFoundError as error:
                raise DamagedDataset(f"{self.location}/{name}: missing") from error
            if size < length:
                raise DamagedDataset(f"{self.location}/{name}: truncated; {size} bytes do not hold its index")
            table = _fetch(self.location, name, size - length, size).tobytes()
            if checksum(table[:-CRC_BYTES]) != table[-CRC_BYTES:]:
                raise DamagedDataset(f"{self.location}/{name}: the shard index does not match its checksum")
            pairs = np.frombuffer(table[:-CRC_BYTES], dtype="<u8").reshape(n_chunks, 2)
            self._indices[shard] = [(offset, size) for offset, size in pairs.tolist()]
        return self._indices[shard]


_MISMATCH = "bytes do not match their crc32c checksum"


def carry_out(reads: Sequence[Read], location: Location) -> None:
    """Do all reads, several at once where that is faster. Raises the error of one that fails."""
    threads = DECODING_THREADS if location.local is not None else _REQUESTS_IN_FLIGHT
    if threads == 1 or len(reads) < 2:
        for read in reads:
            read()
        return
    for _ in _threads(threads).map(lambda read: read(), reads):
        pass


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
        packed = payload[:-CRC_BYTES]
        if len(payload) <= CRC_BYTES or checksum(packed) != payload[-CRC_BYTES:]:
            raise DamagedDataset(f"{location}/{object_name}: {_MISMATCH}; restore or ingest again")
        blosc.decompress(packed, out)
    return out


def _read_metadata(location: Location, name: str) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads(location.read(name))
    except FileNotFoundError as error:
        raise DamagedDataset(f"{location}/{name}: missing") from error
    except ValueError as error:
        raise DamagedDataset(f"{location}/{name}: not JSON ({error})") from error
    return meta


class _Scratch(threading.local):
    """Buffers of one thread, used over and over: new memory costs a page fault every 4 KiB."""

    def __init__(self) -> None:
        self.payload = np.empty(_LOCAL_REQUEST, np.uint8)
        self.chunk = np.empty(0, np.uint8)


_scratch = _Scratch()


def _fetch(location: Location, name: str, begin: int, end: int) -> npt.NDArray[np.uint8]:
    """Bytes `[begin, end)` of an object, valid until this thread fetches again. Raises DamagedDataset."""
    try:
        if location.local is None:
            (content,) = location.read_ranges(name, [(begin, end)])
            return np.frombuffer(content, np.uint8)
        if len(_scratch.payload) < end - begin:
            _scratch.payload = np.empty(end - begin, np.uint8)
        payload = _scratch.payload[: end - begin]
        found = durable_files.read_into(f"{location.root}/{name}", begin, payload.data)
    except FileNotFoundError as error:
        raise DamagedDataset(f"{location}/{name}: missing") from error
    if found < end - begin:
        raise DamagedDataset(
            f"{location}/{name}: ends inside the byte range {begin}-{end} ({found} bytes found); the object "
            "is truncated"
        )
    return payload


def _decode_into(
    packed: npt.NDArray[np.uint8],
    pieces: list[Piece],
    out: npt.NDArray[Any],
    chunk_elements: int,
    dtype: np.dtype[Any],
) -> None:
    position, low, high = pieces[0]
    if high - low == chunk_elements and out.dtype == dtype and len(pieces) == 1:
        blosc.decompress(packed, out[position : position + chunk_elements])
        return
    if len(_scratch.chunk) < chunk_elements * dtype.itemsize:
        _scratch.chunk = np.empty(chunk_elements * dtype.itemsize, np.uint8)
    values = _scratch.chunk[: chunk_elements * dtype.itemsize].view(dtype)
    blosc.decompress(packed, values)
    for position, low, high in pieces:
        out[position : position + high - low] = values[low:high]


@cache
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, thread_name_prefix="read")
