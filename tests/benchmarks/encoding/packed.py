"""Our side of the encoder benchmarks, in steps that take turns with the other side's."""

from collections.abc import Iterator

import torch

from engine.models import Encoder, Tokens
from engine.streaming.copies import on_device
from engine.streaming.packing import pack
from engine.streaming.products.product import Collector


@torch.inference_mode()
def steps(encoder: Encoder, tokens: Tokens, collector: Collector) -> Iterator[None]:
    """What `encode_cells` does on a CPU, one packed batch at a time."""
    for cells, packed in on_device(tokens, pack(tokens.lengths), encoder.device):
        collector.add(cells, packed)()
        yield
