"""The shard writer and reader against zarr-python, and what happens to damaged objects."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import zarr

from storage.errors import DamagedDataset
from storage.locations import Location
from storage.shard_reading import ShardedArray, read_single_chunk
from storage.shards import CHUNK_ELEMENTS, COUNTS, GENES, ShardedArrayWriter, put_single_chunk

SHARD = 4 * CHUNK_ELEMENTS


def write(root: Path, values: np.ndarray, pieces: int = 7) -> Location:
    location = Location.of(root)
    writer = ShardedArrayWriter("X/data", values.dtype, GENES, location.put, shard_elements=SHARD)
    for part in np.array_split(values, pieces):
        writer.append(part)
    writer.close()
    return location


@pytest.fixture
def values() -> np.ndarray:
    """Two full shards and a bit, like counts: mostly small."""
    return np.random.default_rng(0).geometric(0.4, size=2 * SHARD + 1234).astype(np.uint16)


@pytest.mark.parametrize("n", [0, 1, CHUNK_ELEMENTS, CHUNK_ELEMENTS + 1, SHARD, SHARD + 5])
def test_zarr_python_reads_what_we_write(tmp_path: Path, n: int) -> None:
    values = np.random.default_rng(n).integers(0, 70_000, n).astype(np.uint32)
    location = write(tmp_path, values)
    assert np.array_equal(zarr.open_array(tmp_path / "X" / "data", mode="r")[:], values)
    assert np.array_equal(ShardedArray(location, "X/data").read([(0, n)]), values)


def test_bytes_do_not_depend_on_how_values_arrive(tmp_path: Path, values: np.ndarray) -> None:
    digests = []
    for pieces in (1, 5, 23):
        location = write(tmp_path / str(pieces), values, pieces)
        names = location.list()
        digests.append([(name, hashlib.sha256(location.read(name)).hexdigest()) for name in names])
    assert digests[0] == digests[1] == digests[2]
    assert [name for name, _ in digests[0]] == ["X/data/c/0", "X/data/c/1", "X/data/c/2", "X/data/zarr.json"]


def test_reads_any_ranges_in_the_order_asked(tmp_path: Path, values: np.ndarray) -> None:
    array = ShardedArray(write(tmp_path, values), "X/data")
    rng = np.random.default_rng(1)
    starts = rng.integers(0, len(values) - 3000, 50)
    ranges = [(int(start), int(start + rng.integers(0, 3000))) for start in starts]
    ranges += [(SHARD - 10, SHARD + 10), (0, 0), (0, len(values)), (CHUNK_ELEMENTS, 2 * CHUNK_ELEMENTS)]
    expected = np.concatenate([values[start:stop] for start, stop in ranges])
    assert np.array_equal(array.read(ranges), expected)


def test_reads_chunks_that_another_writer_ordered_otherwise(tmp_path: Path, values: np.ndarray) -> None:
    """zarrs lays inner chunks down in arbitrary order; only the index says where each lies."""
    location = write(tmp_path, values[:SHARD])
    whole = location.read("X/data/c/0")
    index = np.frombuffer(whole[-68:-4], dtype="<u8").reshape(4, 2)
    chunks = [whole[offset : offset + size] for offset, size in index.astype(int)]
    order = [2, 0, 3, 1]
    moved, body = np.empty_like(index), b""
    for number in order:
        moved[number] = len(body), len(chunks[number])
        body += chunks[number]
    import google_crc32c

    table = moved.tobytes()
    location.put("X/data/c/0", body + table + google_crc32c.value(table).to_bytes(4, "little"))
    assert np.array_equal(ShardedArray(location, "X/data").read([(0, SHARD)]), values[:SHARD])


def test_missing_shard_is_an_error_by_name(tmp_path: Path, values: np.ndarray) -> None:
    location = write(tmp_path, values)
    location.delete("X/data/c/1")
    array = ShardedArray(location, "X/data")
    assert np.array_equal(array.read([(0, 10)]), values[:10])
    with pytest.raises(DamagedDataset, match=r"X/data/c/1: missing"):
        array.read([(SHARD, SHARD + 1)])


@pytest.mark.parametrize("where", ["chunk", "index", "metadata"])
def test_flipped_bit_is_an_error_by_name(tmp_path: Path, values: np.ndarray, where: str) -> None:
    location = write(tmp_path, values)
    name = "X/data/zarr.json" if where == "metadata" else "X/data/c/0"
    content = bytearray(location.read(name))
    content[{"chunk": 5000, "index": -40, "metadata": 0}[where]] ^= 1
    location.put(name, bytes(content))
    with pytest.raises(DamagedDataset, match=name):
        ShardedArray(location, "X/data").read([(0, CHUNK_ELEMENTS)])


def test_truncated_shard_is_an_error_by_name(tmp_path: Path, values: np.ndarray) -> None:
    location = write(tmp_path, values)
    location.put("X/data/c/0", location.read("X/data/c/0")[:-7])
    with pytest.raises(DamagedDataset, match="X/data/c/0"):
        ShardedArray(location, "X/data").read([(0, 1)])


def test_single_chunk_array(tmp_path: Path) -> None:
    location, indptr = Location.of(tmp_path), np.cumsum(np.arange(1000, dtype=np.int64))
    put_single_chunk("indptr", indptr, COUNTS, location.put)
    assert np.array_equal(zarr.open_array(tmp_path / "indptr", mode="r")[:], indptr)
    assert np.array_equal(read_single_chunk(location, "indptr"), indptr)
    location.delete("indptr/c/0")
    with pytest.raises(DamagedDataset, match="indptr/c/0"):
        read_single_chunk(location, "indptr")
