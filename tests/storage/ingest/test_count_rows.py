"""What happens to a row on its way into the store."""

import numpy as np
import pytest
from scipy import sparse

from storage.ingest.count_rows import store_rows, stored_dtype


def rows_of(
    dense: list[list[float]], of_column: list[int], n_genes: int, min_genes: int = 0, dtype: type = np.int32
):
    block = sparse.csr_matrix(np.array(dense, dtype))
    rows, kept = store_rows(block, np.array(of_column, np.int32), n_genes, min_genes)
    assert rows.has_canonical_format
    return rows.toarray().tolist(), kept.tolist()


def test_columns_of_one_gene_are_summed_and_others_moved() -> None:
    assert rows_of([[1, 2, 3], [0, 4, 0]], [2, 0, 2], 3) == ([[2, 0, 4], [4, 0, 0]], [True, True])


def test_left_out_columns_and_explicit_zeros_disappear() -> None:
    block = sparse.csr_matrix(
        (np.array([0, 5, 7, 0]), np.array([0, 1, 2, 1]), np.array([0, 3, 4, 4])), shape=(3, 3)
    )
    rows, _ = store_rows(block, np.array([0, 1, -1], np.int32), 2, 0)
    assert rows.nnz == 1
    assert rows.toarray().tolist() == [[0, 5], [0, 0], [0, 0]]


def test_unsorted_and_repeated_entries_become_canonical() -> None:
    block = sparse.csr_matrix((np.array([1, 2, 3]), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 3))
    rows, _ = store_rows(block, np.arange(3, dtype=np.int32), 3, 0)
    assert (rows.indices.tolist(), rows.data.tolist()) == ([0, 2], [2, 4])


def test_cells_with_few_genes_are_left_out() -> None:
    assert rows_of([[1, 1], [0, 1], [0, 0]], [0, 1], 2, min_genes=2) == ([[1, 1]], [True, False, False])
    # Two columns of one gene are one gene.
    assert rows_of([[1, 1]], [0, 0], 1, min_genes=2) == ([], [False])


def test_floats_that_are_whole_become_integers() -> None:
    assert rows_of([[2.0000001, 300000.0]], [0, 1], 2, dtype=np.float32)[0] == [[2, 300000]]


@pytest.mark.parametrize(("largest", "dtype"), [(0, np.uint16), (65_535, np.uint16), (65_536, np.uint32)])
def test_stored_dtype(largest: int, dtype: type) -> None:
    assert stored_dtype(largest) == dtype
