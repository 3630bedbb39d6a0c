"""Pooling of packed token states."""

import numpy as np
import torch

from engine.models.layers.pooling import first_rows, gene_sums, per_cell, pool_mean
from engine.models.layout import CellLayout

LAYOUT = CellLayout(np.array([0, 2, 2, 5]), torch.device("cpu"))
X_TD = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0, 10.0]])
NAN = float("nan")


def test_first_token() -> None:
    expected = torch.tensor([[1.0, 2.0], [NAN, NAN], [5.0, 6.0]])
    rows_T = first_rows(LAYOUT)
    assert rows_T.tolist() == [0, 2]
    torch.testing.assert_close(per_cell(X_TD[rows_T], LAYOUT), expected, equal_nan=True)


def test_mean() -> None:
    expected = torch.tensor([[2.0, 3.0], [NAN, NAN], [7.0, 8.0]])
    torch.testing.assert_close(pool_mean(X_TD, LAYOUT), expected, equal_nan=True)


def test_mean_of_some_tokens() -> None:
    keep_T = torch.tensor([False, False, True, False, True])
    expected = torch.tensor([[NAN, NAN], [NAN, NAN], [7.0, 8.0]])
    torch.testing.assert_close(pool_mean(X_TD, LAYOUT, keep_T), expected, equal_nan=True)


def test_bfloat16_states_are_averaged_in_float32() -> None:
    assert pool_mean(X_TD.bfloat16(), LAYOUT).dtype == torch.float32


def test_gene_sums_of_batches_add_up() -> None:
    ids_T = torch.tensor([3, 1, 3, 0, 1])
    sum_VD, count_V = gene_sums(X_TD, ids_T, 5)
    assert count_V.tolist() == [1, 2, 0, 2, 0]
    assert sum_VD[3].tolist() == [6.0, 8.0]
    first, second = gene_sums(X_TD[:2], ids_T[:2], 5), gene_sums(X_TD[2:], ids_T[2:], 5)
    assert torch.equal(first[0] + second[0], sum_VD)
    assert torch.equal(first[1] + second[1], count_V)
