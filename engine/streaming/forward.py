"""The forward passes of one member: its cells in packed batches, through the encoder, to a collector."""

from __future__ import annotations

import torch

from engine.models import Encoder, Tokens
from engine.streaming.packing import pack
from engine.streaming.products.product import Collector


def encode_cells(encoder: Encoder, tokens: Tokens, collector: Collector, batch_tokens: int) -> None:
    """Encode all cells of a member in packed batches; the collector has them in the order of the cells."""
    with torch.inference_mode():
        for cells in pack(tokens.lengths, batch_tokens):
            collector.add(cells, tokens.select(cells).to_torch(encoder.device))
