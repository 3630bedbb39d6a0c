"""The forward passes of one member: its cells in packed batches, through the encoder, to a collector."""

from __future__ import annotations

from collections.abc import Callable

import torch

from engine.models import Encoder, Tokens
from engine.streaming.copies import on_device
from engine.streaming.packing import pack, token_slots
from engine.streaming.products.product import Collector


def encode_cells(encoder: Encoder, tokens: Tokens, collector: Collector, batch_tokens: int) -> int:
    """Encode all cells of a member in packed batches; the collector has them in the order of the cells.

    Returns the tokens that the batches had room for (`packing.token_slots`).

    On a GPU three batches are under way: one is copied there, one is computed, and the results of the one
    before it come back and are put in their place.
    """
    batches = pack(tokens.lengths, batch_tokens)
    place: Callable[[], None] | None = None
    with torch.inference_mode():
        for cells, packed in on_device(tokens, batches, encoder.device):
            place_next = collector.add(cells, packed)
            if place:
                place()
            place = place_next
            if encoder.device.type == "cpu":  # nothing is under way, and the results take memory
                place()
                place = None
        if place:
            place()
    return token_slots(batches, tokens.lengths, batch_tokens)
