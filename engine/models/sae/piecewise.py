"""Export of an autoencoder piece by piece of its features: it never has to be in memory whole.

Legend: D input width, f features of a piece.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from engine.models.sae.config import SAEConfig
from engine.models.sae.folds import fold_input_scaling
from engine.models.sae.model import SAE
from engine.models.sae.shards import (
    export_shards,
    feature_rows,
    finish_shards,
    ranges,
    save_shard,
    shared_weights,
)

# Of weights in memory at once, before folding copies them.
PIECE_BYTES = 1 << 30


def export_piecewise(
    config: SAEConfig,
    weights: Callable[[int, int], Mapping[str, Tensor]],
    mean_D: Tensor,
    scale: float,
    directory: Path,
    piece_bytes: int = PIECE_BYTES,
) -> None:
    """Writes the SAELens directory of an autoencoder that was trained on x' = (x - mean) * scale.

    weights: state dict of features start .. stop of `config`, shared weights included (float32, CPU). The
    directory takes raw activations, as `fold_input_scaling` says.
    """
    with tempfile.TemporaryDirectory(prefix=".pieces-", dir=directory.parent) as scratch:
        for start, stop in ranges(config.d_sae, n_pieces(config, piece_bytes)):
            with torch.device("meta"):  # the weights bring their own memory
                piece = SAE(replace(config, d_sae=stop - start))
            piece.load_state_dict(dict(weights(start, stop)), assign=True)
            folded = fold_input_scaling(piece, mean_D, scale)
            save_shard(feature_rows(folded, 0, stop - start), start, scratch)
        finish_shards(replace(folded.config, d_sae=config.d_sae), shared_weights(folded), scratch)
        export_shards(scratch, directory)


def n_pieces(config: SAEConfig, piece_bytes: int) -> int:
    """Into how many pieces to cut: small enough, but no piece has fewer than k features."""
    wanted = -(-4 * config.d_sae * (config.d_in + config.reconstructs) // piece_bytes)
    return max(1, min(wanted, int(config.d_sae // max(config.k or 1, 1))))
