"""What every input format looks like to the rest of storage: cells, genes and count matrices read in row
blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from storage.errors import InputError

# Stored values held at once: 2 Mi x (4 byte index + 4..8 byte value), 24 MB, and a few copies while they are
# sorted. the file.
BLOCK_ELEMENTS = 1 << 21


class UnreadableSource(InputError):
    """The file is not what its name says, is cut off, or contradicts itself."""


@dataclass(frozen=True)
class Sample:
    """Some stored values of a matrix: `values[i]` belongs to column `genes[i]`; `where` says which they
    are.
    """

    where: str
    genes: npt.NDArray[Any]
    values: npt.NDArray[Any]


class CountMatrix(Protocol):
    """Cells x genes on disk. Values come as they are stored: nothing is rounded, sorted or summed."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    layout: str
    """csr, csc, dense or mtx."""
    by_rows: bool
    """Whether a range of cells can be read without reading the whole file."""

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """(first cell, its and the following cells' rows) for the cells `[start, stop)`, each about
        BLOCK_ELEMENTS.
        """

    def samples(self, n: int) -> Iterator[Sample]:
        """At most `n` pieces of about 65,536 stored values, spread evenly over the file."""

    def empty_cells(self) -> int | None:
        """Cells without a stored value, or None where only a full pass can tell."""

    def close(self) -> None:
        """Remove temporary files."""


class Frame(Protocol):
    """A table with one row a cell (obs) or a gene (var), read by row range."""

    n: int
    columns: list[str]

    def rows(self, start: int, stop: int, columns: list[str] | None = None) -> pd.DataFrame:
        """Rows `[start, stop)` with their index; all columns by default."""


@dataclass(frozen=True)
class Layout:
    """One entry of obsm; `rows` is None when it is not a plain array (a data frame, a sparse matrix)."""

    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    rows: Callable[[int, int], npt.NDArray[Any]] | None


@dataclass
class Source:
    """One opened input file. `matrices` and `var` have the same keys: `X`, `raw`, `layer:NAME`."""

    path: str
    format: str
    obs: Frame
    matrices: dict[str, CountMatrix]
    var: dict[str, Frame]
    objects: list[str]
    """Every file whose bytes make the content, for the fingerprint."""
    layouts: dict[str, Layout] = field(default_factory=dict)
    closers: list[Callable[[], Any]] = field(default_factory=list)

    @property
    def n_cells(self) -> int:
        return self.obs.n

    def genes_frame(self, counts: str) -> pd.DataFrame:
        """The whole `var` that goes with a matrix."""
        frame = self.var[counts]
        return frame.rows(0, frame.n)

    def close(self) -> None:
        for matrix in self.matrices.values():
            matrix.close()
        for close in self.closers:
            close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what file libraries raise on damaged files into UnreadableSource with the place it happened.

    h5py raises OSError, RuntimeError or KeyError, zarr and numcodecs ValueError or RuntimeError, gzip
    EOFError.
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, EOFError, IndexError) as error:
        text = str(error).strip("'\"") or type(error).__name__
        raise UnreadableSource(
            f"{what}: cannot be read ({text}). The file is damaged or incomplete."
        ) from error
