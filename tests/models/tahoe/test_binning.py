"""Binning of a block of cells against the original's per-cell recipe in torch."""

import numpy as np
import pytest
import torch

from engine.models.tahoe.binning import bin_values, log_values


def one_cell(values: list[float], *, right: bool) -> np.ndarray:
    """torch.quantile over the non-zero values, then the number of edges below (or not above) each."""
    x = torch.tensor(values)
    out = torch.zeros(len(values))
    nonzero = x != 0
    if nonzero.any():
        edges = torch.quantile(x[nonzero], torch.linspace(0, 1, 50))
        out[nonzero] = torch.searchsorted(edges, x[nonzero], right=right).float()
    return (out if right else out + 1).numpy()


@pytest.mark.parametrize(
    ("values", "left", "right"),
    [
        ([1, 1, 1, 1, 2, 2, 3, 7, 100], [1, 1, 1, 1, 26, 26, 38, 44, 50], None),
        ([4, 4, 4], [1, 1, 1], [50, 50, 50]),
        ([0, 0, 1, 2, 3], [1, 1, 1, 26, 50], [0, 0, 1, 25, 50]),
        ([0, 0], [1, 1], [0, 0]),
        ([5], [1], [50]),
        ([], [], []),
    ],
)
def test_examples(values: list[float], left: list[int], right: list[int] | None) -> None:
    x_T, lengths = np.array(values, np.float32), np.array([len(values)])
    assert bin_values(x_T, lengths).tolist() == left
    if right is not None:
        assert bin_values(x_T, lengths, right=True).tolist() == right


@pytest.mark.parametrize("right", [False, True])
def test_a_block_equals_its_cells(right: bool) -> None:
    """Counts, fractions, negatives and explicit zeros, in cells from empty to large."""
    random = np.random.default_rng(0)
    cells = [random.poisson(random.gamma(1, 3, n)).astype(np.float32) for n in random.integers(0, 900, 150)]
    cells += [random.normal(0, 5, n).astype(np.float32) for n in (1, 2, 49, 50, 51, 500)]
    cells += [np.zeros(0, np.float32), np.zeros(7, np.float32), np.full(3, -0.0, np.float32)]
    found = bin_values(np.concatenate(cells), np.array(list(map(len, cells))), right=right)
    expected = np.concatenate([one_cell(cell.tolist(), right=right) for cell in cells])
    np.testing.assert_array_equal(found, expected)


def test_log_values_of_each_cell_scale_to_the_target() -> None:
    found = log_values(np.array([1, 3, 5], np.float32), np.array([2, 0, 1]), 100.0)
    np.testing.assert_allclose(np.expm1(found), [25, 75, 100], rtol=1e-5)
