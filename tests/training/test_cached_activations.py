"""What a cache hands to a trainer's device."""

import numpy as np
import torch

from engine.training.cached_activations import activations_on
from storage.activations import StoredActivations, quantise


def test_fp8_made_numbers_on_the_device_is_fp8_read_as_numbers() -> None:
    x_BD = torch.randn(50, 16, generator=torch.Generator().manual_seed(0)) * 3
    codes, scale = quantise(x_BD)
    column = np.zeros(50, np.uint32)
    rows = codes.view(torch.uint8).numpy()
    stored = StoredActivations(rows, "F8_E4M3", scale, column, column, column, column.astype(np.uint8))
    device = torch.device("cpu")
    decoded = activations_on(device, stored.tokens())
    assert torch.equal(activations_on(device, stored.tokens(decoded=False)), decoded)
    assert (decoded - x_BD).abs().max() < 0.05 * x_BD.abs().max()
