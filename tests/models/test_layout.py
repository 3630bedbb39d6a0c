"""Runs of like cells, and the rows of a batch that are wanted."""

import numpy as np
import pytest
import torch

from engine.models.errors import ModelError
from engine.models.layout import CellLayout, KeptRows


def layout_of(*lengths: int) -> CellLayout:
    return CellLayout(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), torch.device("cpu"))


@pytest.mark.parametrize("lengths", [(3, 3, 3), (2, 5, 2, 0, 5, 1), (4,), (1, 2, 3), (0, 0), ()])
def test_runs_hold_every_token_once_and_in_order(lengths: tuple[int, ...]) -> None:
    layout = layout_of(*lengths)
    every_T = list(range(sum(lengths)))
    assert [row for run in layout.runs for row in every_T[run.tokens]] == every_T
    for run in layout.runs:
        assert run.queries == run.tokens
        assert (run.tokens.stop - run.tokens.start) % run.n_cells == 0


def test_runs_of_kept_rows() -> None:
    layout = layout_of(3, 3, 3, 0, 2)
    kept = KeptRows(torch.tensor([0, 2, 3, 4, 9]), layout)
    assert kept.layout.lengths.tolist() == [2, 2, 0, 0, 1]
    assert [(run.n_cells, run.queries, run.tokens) for run in kept.runs] == [
        (2, slice(0, 4), slice(0, 6)),
        (1, slice(4, 5), slice(9, 11)),
    ]


@pytest.mark.parametrize("rows", [[-1], [2, 1], [1, 1], [3]])
def test_rows_that_cannot_be_kept(rows: list[int]) -> None:
    with pytest.raises(ModelError, match="ascending rows of 3 packed tokens"):
        KeptRows(torch.tensor(rows), layout_of(3))
