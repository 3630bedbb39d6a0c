"""Copies between the host and a GPU that run while the GPU computes.

They pass through pinned memory on a stream of their own; PyTorch's pinned allocator gives a buffer out again
only when the copy that used it is done. On a CPU there is nothing to copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from engine.models import PackedTokens, Tokens


def on_device(
    tokens: Tokens, batches: Sequence[np.ndarray], device: torch.device
) -> Iterator[tuple[np.ndarray, PackedTokens]]:
    """Each batch's cells with their tokens on `device`; the next batch travels while the caller uses one."""
    if device.type != "cuda":
        for cells in batches:
            yield cells, tokens.select(cells).to_torch(device)
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ahead: _Sent | None = None
    for cells in batches:
        with torch.cuda.stream(stream):
            sent = _Sent(cells, tokens.select(cells).to_torch(device), stream.record_event())
        if ahead:
            yield ahead.received()
        ahead = sent
    if ahead:
        yield ahead.received()


@dataclass(frozen=True)
class _Sent:
    """A batch on its way to the GPU."""

    cells: np.ndarray
    tokens: PackedTokens
    arrived: torch.cuda.Event

    def received(self) -> tuple[np.ndarray, PackedTokens]:
        computing = torch.cuda.current_stream()
        computing.wait_event(self.arrived)
        for tensor in (self.tokens.ids_T, self.tokens.values_T):
            tensor.record_stream(computing)  # or its memory could be reused while the encoder still reads it
        return self.cells, self.tokens


class HostCopy:
    """A result on its way to the host; on the CPU it is there."""

    def __init__(self, x: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._x = x
        if x.is_cuda:
            computing = torch.cuda.current_stream(x.device)
            self._x = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
            stream = _homeward(x.device)
            stream.wait_stream(computing)
            with torch.cuda.stream(stream):
                self._x.copy_(x, non_blocking=True)
                self._arrived = stream.record_event()
            x.record_stream(stream)

    def wait(self) -> Tensor:
        """The result, on the host."""
        if self._arrived:
            self._arrived.synchronize()
        return self._x


@cache
def _homeward(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
