"""Every cell with tokens reaches the collector once, and results are placed batch by batch."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from engine.models import PackedTokens, Tokens
from engine.streaming.copies import HostCopy, on_device
from engine.streaming.forward import encode_cells
from engine.streaming.packing import pack
from tests.models.small_models import small_geneformer, tokens_of


class Recorder:
    """A collector that keeps what it was given, and in what order."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.events: list[str] = []
        self.cells: list[int] = []

    def add(self, cells: np.ndarray, tokens: PackedTokens) -> Callable[[], None]:
        assert torch.is_inference_mode_enabled()
        np.testing.assert_array_equal(tokens.ids_T.cpu(), self.tokens.select(cells).ids_T)
        number = len(self.events) // 2
        self.events.append(f"add {number}")
        self.cells += cells.tolist()
        return lambda: self.events.append(f"place {number}")


def test_cells_reach_the_collector_once_and_are_placed_at_once_on_a_cpu() -> None:
    encoder = small_geneformer()
    tokens = tokens_of(encoder)
    collector = Recorder(tokens)
    encode_cells(encoder, tokens, collector, batch_tokens=100)  # type: ignore[arg-type]
    assert sorted(collector.cells) == np.flatnonzero(tokens.lengths).tolist()
    assert collector.events[:4] == ["add 0", "place 0", "add 1", "place 1"]


def test_no_cells() -> None:
    encoder = small_geneformer()
    tokens = tokens_of(encoder).select([])
    collector = Recorder(tokens)
    encode_cells(encoder, tokens, collector, batch_tokens=100)  # type: ignore[arg-type]
    assert not collector.events


def test_results_on_the_host_are_not_copied() -> None:
    x = torch.arange(3)
    assert HostCopy(x).wait() is x


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_copies_to_and_from_a_gpu() -> None:
    tokens = tokens_of(small_geneformer())
    under_way = []
    for cells, packed in on_device(tokens, pack(tokens.lengths, 64), torch.device("cuda")):
        under_way.append((cells, HostCopy(packed.ids_T * 2)))
    for cells, copy in under_way:
        np.testing.assert_array_equal(copy.wait(), tokens.select(cells).ids_T * 2)
