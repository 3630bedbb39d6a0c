"""Entries in any order become rows; memory and files are bounded and removed."""

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from storage.sources import spill
from tests.storage import inputs


@pytest.mark.parametrize("bucket", [1, 50, 10_000])
def test_rows_of_entries_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: int) -> None:
    monkeypatch.setattr(spill, "BUCKET_ELEMENTS", bucket)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    matrix = inputs.counts(53, 20)
    entries = sparse.coo_matrix(matrix)
    order = np.random.default_rng(0).permutation(entries.nnz)
    rows = spill.RowSpill(matrix.shape, entries.nnz, np.int32)
    for part in np.array_split(order, 4):
        rows.add(entries.row[part], entries.col[part], entries.data[part])
    assert rows.n_entries == matrix.nnz
    for start, stop in [(0, 53), (7, 31), (52, 53), (9, 9)]:
        blocks = list(rows.blocks(start, stop))
        found = sparse.vstack([block for _, block in blocks]).toarray() if blocks else np.zeros((0, 20))
        assert np.array_equal(found, matrix.toarray()[start:stop])
    assert rows.cells_without_entries() == int((np.diff(matrix.indptr) == 0).sum())
    rows.close()
    assert not list(tmp_path.iterdir())


def test_an_entry_given_twice_is_summed() -> None:
    rows = spill.RowSpill((2, 2), 2, np.int64)
    rows.add(np.array([1, 1]), np.array([0, 0]), np.array([3, 4]))
    ((_, block),) = rows.blocks(0, 2)
    assert block.toarray().tolist() == [[0, 0], [7, 0]]
