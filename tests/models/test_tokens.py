"""Packed tokens: selection, concatenation, and the layout that attention works on."""

import numpy as np
import pytest
import torch

from engine.models.errors import ModelError
from engine.models.tokens import PackedTokens, Tokens


def tokens(*lengths: int) -> Tokens:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Tokens(np.arange(offsets[-1], dtype=np.int32), np.ones(offsets[-1], np.float32), offsets)


def test_positions_and_cells() -> None:
    found = tokens(2, 0, 3)
    assert (found.n_cells, found.n_tokens) == (3, 5)
    assert found.empty_cells.tolist() == [1]
    assert found.cell_T.tolist() == [0, 0, 2, 2, 2]
    assert found.position_T.tolist() == [0, 1, 0, 1, 2]


def test_select_takes_cells_in_the_order_asked() -> None:
    found = tokens(2, 0, 3).select([2, 1, 0, 2])
    assert found.ids_T.tolist() == [2, 3, 4, 0, 1, 2, 3, 4]
    assert found.lengths.tolist() == [3, 0, 2, 3]


def test_select_of_nothing() -> None:
    found = tokens(2, 3).select([])
    assert (found.n_cells, found.n_tokens) == (0, 0)


def test_concatenate_undoes_select() -> None:
    whole = tokens(2, 0, 3)
    again = Tokens.concatenate([whole.select([0]), whole.select([1, 2])])
    assert again.ids_T.tolist() == whole.ids_T.tolist()
    assert again.offsets.tolist() == whole.offsets.tolist()
    assert Tokens.concatenate([]).n_cells == 0


def test_offsets_must_cover_the_tokens() -> None:
    with pytest.raises(ModelError, match="offsets must run from 0 to the number of tokens"):
        Tokens(np.zeros(3, np.int32), np.zeros(3, np.float32), np.array([0, 2]))
    with pytest.raises(ModelError, match="3 ids but 2 values"):
        Tokens(np.zeros(3, np.int32), np.zeros(2, np.float32), np.array([0, 3]))


def test_to_torch() -> None:
    found = tokens(2, 3).to_torch()
    assert found.ids_T.dtype == torch.int64
    assert (found.n_cells, found.n_tokens, found.layout.longest) == (2, 5, 3)
    assert found.layout.position_T.tolist() == [0, 1, 0, 1, 2]
    assert found.layout.cell_T.tolist() == [0, 0, 1, 1, 1]


def test_from_tensors_is_to_torch() -> None:
    source = tokens(1, 4)
    found = PackedTokens.from_tensors(
        torch.as_tensor(source.ids_T), torch.as_tensor(source.values_T), torch.as_tensor(source.offsets)
    )
    assert torch.equal(found.ids_T, source.to_torch().ids_T)
    assert found.layout.lengths.tolist() == [1, 4]


@pytest.mark.parametrize(
    ("values", "whole"), [([-2, 0, 50], True), ([0.5], False), ([-3], False), ([], True)]
)
def test_whole_values_are_known(values: list[float], whole: bool) -> None:
    n = len(values)
    found = Tokens(np.zeros(n, np.int32), np.array(values, np.float32), np.array([0, n])).to_torch()
    assert found.whole_values == whole
    again = PackedTokens.from_tensors(found.ids_T, found.values_T, torch.tensor([0, n]))
    assert again.whole_values == whole
