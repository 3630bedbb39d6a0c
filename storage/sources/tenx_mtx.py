"""10x Genomics Matrix Market folder: `matrix.mtx`, `barcodes.tsv`, `features.tsv` or `genes.tsv`, gzipped
or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv
from scipy import sparse

from storage.locations import Location
from storage.sources.frames import TableFrame
from storage.sources.matrices import require_inside
from storage.sources.source import Sample, Source, UnreadableSource, reading
from storage.sources.spill import RowSpill

_TEXT_BLOCK_BYTES = 1 << 24


def recognises(location: Location) -> bool:
    return location.exists("matrix.mtx") or location.exists("matrix.mtx.gz")


def open(path: str) -> Source:
    """Raises UnreadableSource. Counts are `X`; `var` is indexed by symbol and has `gene_ids`."""
    location = Location.of(path)
    matrix_path = _one_of(location, "matrix.mtx")
    barcodes_path = _one_of(location, "barcodes.tsv")
    features_path = _one_of(location, "features.tsv", "genes.tsv")
    barcodes, features = _table(barcodes_path), _table(features_path)
    obs = pd.DataFrame(index=pd.Index(barcodes[0].to_numpy(dtype=object)))
    matrix = MtxMatrix(matrix_path, len(obs), len(features))
    objects = [matrix_path, barcodes_path, features_path]
    frame = TableFrame(_var(features))
    return Source(path, "10x mtx", TableFrame(obs), {"X": matrix}, {"X": frame}, objects)


class MtxMatrix:
    """Coordinate entries `gene cell count` (or `cell gene count`), parsed once as a stream into a
    RowSpill.
    """

    layout = "mtx"
    by_rows = False

    def __init__(self, path: str, n_cells: int, n_genes: int) -> None:
        self.where, self.shape = path, (n_cells, n_genes)
        with reading(path), _stream(path) as text:
            self._header_lines, words, sides, self.n_entries = _header(path, text)
        self.dtype = np.dtype(np.int64 if words[3] == "integer" else np.float64)
        if sides not in ((n_genes, n_cells), (n_cells, n_genes)):
            expected = f"{n_genes:,} features and {n_cells:,} barcodes beside it"
            raise UnreadableSource(f"{path}: says {sides[0]:,} x {sides[1]:,}, but there are {expected}.")
        self._genes_first = sides == (n_genes, n_cells)
        self._spill: RowSpill | None = None

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        yield from self._cells().blocks(start, stop)

    def samples(self, n: int) -> Iterator[Sample]:
        rows = max(1, (self.shape[0] * (1 << 16)) // max(self.n_entries, 1))
        starts = np.unique(np.linspace(0, max(self.shape[0] - rows, 0), n).astype(np.int64))
        for start in starts:
            stop = min(int(start) + rows, self.shape[0])
            for first, block in self._cells().blocks(int(start), stop):
                yield Sample(f"cells {first:,}-{first + block.shape[0]:,}", block.indices, block.data)

    def empty_cells(self) -> int:
        return self._cells().cells_without_entries()

    def close(self) -> None:
        if self._spill is not None:
            self._spill.close()
            self._spill = None

    def _cells(self) -> RowSpill:
        if self._spill is None:
            spill = RowSpill(self.shape, self.n_entries, self.dtype)
            with reading(self.where), _stream(self.where) as text:
                for batch in self._batches(text):
                    self._add(spill, batch)
            if spill.n_entries != self.n_entries:
                found = f"{spill.n_entries:,} entries, the header says {self.n_entries:,}"
                raise UnreadableSource(f"{self.where}: {found}; the file is cut off.")
            self._spill = spill
        return self._spill

    def _batches(self, text: IO[bytes]) -> Iterator[pa.RecordBatch]:
        """Entries as columns (first, second, value). pyarrow parses about 20 million a second."""
        value_type = pa.int64() if self.dtype.kind == "i" else pa.float64()
        types = {"first": pa.int64(), "second": pa.int64(), "value": value_type}
        names = csv.ReadOptions(
            skip_rows=self._header_lines,
            column_names=list(types),
            block_size=_TEXT_BLOCK_BYTES,
            use_threads=False,
        )
        if self.n_entries:
            yield from csv.open_csv(
                text, names, csv.ParseOptions(delimiter=" "), csv.ConvertOptions(column_types=types)
            )

    def _add(self, spill: RowSpill, batch: pa.RecordBatch) -> None:
        first, second, values = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
        genes, cells = (first, second) if self._genes_first else (second, first)
        require_inside(genes - 1, self.shape[1], f"{self.where}: gene numbers")
        require_inside(cells - 1, self.shape[0], f"{self.where}: cell numbers")
        spill.add(cells - 1, genes - 1, values)


def _header(path: str, text: IO[bytes]) -> tuple[int, list[str], tuple[int, int], int]:
    """(lines before the entries, words of the banner, the two sides, number of entries)."""
    words = text.readline().decode(errors="replace").lower().split()
    kind = ["%%matrixmarket", "matrix", "coordinate"]
    if words[:3] != kind or words[3] not in ("integer", "real") or words[4] != "general":
        raise UnreadableSource(
            f"{path}: begins with {' '.join(words) or 'nothing'!r}; expected "
            "'%%MatrixMarket matrix coordinate integer general'."
        )
    n_lines = 1
    for line in text:
        n_lines += 1
        if not line.startswith(b"%"):
            first, second, n_entries = (int(word) for word in line.split())
            return n_lines, words, (first, second), n_entries
    raise UnreadableSource(f"{path}: ends before the line with the matrix's size.")


def _one_of(location: Location, *names: str) -> str:
    for name in names:
        for candidate in (name, f"{name}.gz"):
            if location.exists(candidate):
                return f"{location}/{candidate}"
    raise UnreadableSource(f"{location}: has neither {' nor '.join(names)} (also as .gz); a 10x folder has.")


def _stream(path: str) -> IO[bytes]:
    compression = "gzip" if path.endswith(".gz") else None
    stream: IO[bytes] = fsspec.open(path, "rb", compression=compression).open()
    return stream


def _table(path: str) -> pd.DataFrame:
    with reading(path), _stream(path) as text:
        try:
            return pd.read_csv(text, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)
        except pd.errors.EmptyDataError:
            return pd.DataFrame({0: []}, dtype=str)


def _var(features: pd.DataFrame) -> pd.DataFrame:
    names = features[1 if features.shape[1] > 1 else 0].to_numpy(dtype=object)
    columns = {"gene_ids": features[0].to_numpy(dtype=object)}
    if features.shape[1] > 2:
        columns["feature_types"] = features[2].to_numpy(dtype=object)
    return pd.DataFrame(columns, index=pd.Index(names))
