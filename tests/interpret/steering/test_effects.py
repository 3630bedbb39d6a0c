"""Sums over cells in the order of their tokens."""

from __future__ import annotations

import torch

from engine.interpret.steering.effects import segment_sums


def test_segments_are_summed_as_cells_are() -> None:
    lengths_C = torch.tensor([3, 0, 4, 1])
    value_VQR = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    cell_R = torch.repeat_interleave(torch.arange(4), lengths_C)
    expected_VQC = torch.zeros(2, 3, 4).index_add(-1, cell_R, value_VQR)
    torch.testing.assert_close(segment_sums(value_VQR, lengths_C), expected_VQC)
    assert segment_sums(torch.zeros(2, 0, 8), lengths_C).shape == (2, 0, 4)
