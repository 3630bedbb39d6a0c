"""Numbers on disk: our own writer of sharded zarr v3 arrays of one dimension.

A shard object is one file of the zarr v3 `sharding_indexed` codec (zarr-specs, codecs/sharding-indexed
1.0): inner chunks of 65,536 elements, each `bytes -> blosc(shuffle) -> crc32c`, in order, then the index
(offset and size of every chunk, uint64) with its own crc32c. Any zarr v3 implementation reads it. We write
it ourselves because a member must have the same bytes each time it is written and must appear whole: zarrs
writes shards in place and in arbitrary order. `storage.shard_reading` reads them.

Sizes are the measured optimum of `specs/storage.md` section 2. The codecs are those of `COUNTS` and `GENES`;
measured on real cells (pbmc3k, one core), per element:

              counts                            genes
    zstd 3    2.8 bits, decoded in 1.5 ns       9.0 bits, 1.6 ns
    zstd 5    2.6 bits, 1.2 ns                  8.4 bits, 1.1 ns
    lz4hc 5   3.5 bits, 0.4 ns                  8.7 bits, 0.6 ns

The low bytes of sorted genes hardly compress: LZ4 copies them where zstd decodes symbols.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import blosc

from storage.durable_files import Buffer

CHUNK_ELEMENTS = 1 << 16
SHARD_ELEMENTS = 1 << 26
CRC_BYTES = 4
ABSENT = (1 << 64) - 1

# Blosc's own threads append what they finish in the order they finish: the bytes would differ between runs.
blosc.use_threads = False

Put = Callable[[str, Buffer], None]


@dataclass(frozen=True)
class Packing:
    """A codec of blosc and its level; elements are shuffled first."""

    codec: str
    level: int


COUNTS = Packing("zstd", 5)
GENES = Packing("lz4hc", 5)


def checksum(payload: Buffer | npt.NDArray[np.uint8]) -> bytes:
    """crc32c as the `crc32c` codec writes it."""
    return int(google_crc32c.value(payload)).to_bytes(CRC_BYTES, "little")


def encode_chunk(values: npt.NDArray[Any], packing: Packing) -> bytes:
    """One inner chunk: little-endian elements, shuffled and packed, crc32c at the end."""
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    packed: bytes = blosc.compress(little, packing.codec.encode(), packing.level, blosc.SHUFFLE, 0)
    return packed + checksum(packed)


def _element_codecs(dtype: np.dtype[Any], packing: Packing) -> list[dict[str, Any]]:
    configuration = {
        "typesize": dtype.itemsize,
        "cname": packing.codec,
        "clevel": packing.level,
        "shuffle": "shuffle",
        "blocksize": 0,
    }
    return [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "blosc", "configuration": configuration},
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


def put_single_chunk(name: str, values: npt.NDArray[Any], packing: Packing, put: Put) -> None:
    """Write an array that fits one chunk (an `indptr`) with the same codecs and no sharding."""
    if len(values):
        put(f"{name}/c/0", encode_chunk(values, packing))
    codecs = _element_codecs(values.dtype, packing)
    put(f"{name}/zarr.json", array_metadata(len(values), values.dtype, max(len(values), 1), codecs))


class ShardedArrayWriter:
    """Writes `name/c/<shard>` and, on `close`, `name/zarr.json` through `put`.

    Holds one compressed shard (about 70 MB of gene indices) in memory, however long the array.
    """

    def __init__(
        self,
        name: str,
        dtype: npt.DTypeLike,
        packing: Packing,
        put: Put,
        shard_elements: int = SHARD_ELEMENTS,
    ) -> None:
        if shard_elements % CHUNK_ELEMENTS:
            raise ValueError(f"shard_elements {shard_elements} is not a multiple of {CHUNK_ELEMENTS}")
        self.name, self.dtype, self.packing = name, np.dtype(dtype), packing
        self.shard_elements = shard_elements
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
            "codecs": _element_codecs(self.dtype, self.packing),
            "index_codecs": index_codecs,
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": sharding}]
        self._put(f"{self.name}/zarr.json", array_metadata(self.n, self.dtype, self.shard_elements, codecs))

    def _add_chunk(self, values: npt.NDArray[Any]) -> None:
        self._chunks.append(encode_chunk(values, self.packing))
        if len(self._chunks) == self.shard_elements // CHUNK_ELEMENTS:
            self._put_shard()

    def _put_shard(self) -> None:
        if not self._chunks:
            return
        index = np.full((self.shard_elements // CHUNK_ELEMENTS, 2), ABSENT, dtype="<u8")
        sizes = np.array([len(chunk) for chunk in self._chunks], dtype="<u8")
        index[: len(sizes), 0] = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        index[: len(sizes), 1] = sizes
        table = index.tobytes()
        self._put(f"{self.name}/c/{self._n_shards}", b"".join([*self._chunks, table, checksum(table)]))
        self._chunks = []
        self._n_shards += 1
