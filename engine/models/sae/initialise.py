"""Fresh autoencoders: directions, scales and thresholds to start training from.

Legend: B tokens of a batch, D input width, F features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.models.sae.config import SAEConfig
from engine.models.sae.model import SAE
from engine.models.sae.parallelise import ALONE, FeatureShard

# Features drawn from one generator: the numbers of a feature do not depend on which others a process holds.
BLOCK = 1024
DECODER, ENCODER = 0, 1


@dataclass(frozen=True, kw_only=True)
class InitOptions:
    """Decoder rows are random unit vectors times decoder_norm; the encoder is their transpose where input
    and output have the same width, else random unit vectors too.

    decoder_norm: 1 (the default) keeps the first reconstruction at the scale of the input; 0.1 is SAELens'
    for architectures that punish activations by norm.
    encoder_scale: factor on the encoder beyond the transpose; `fit_encoder_scale` finds the best one.
    threshold: of jumprelu features at the start.
    """

    decoder_norm: float = 1.0
    encoder_scale: float = 1.0
    threshold: float = 0.01


@torch.no_grad()
def initialise(
    config: SAEConfig, options: InitOptions | None = None, *, seed: int = 0, shard: FeatureShard = ALONE
) -> SAE:
    """A fresh autoencoder of any architecture; biases and skip connections are zero, numbers follow seed.

    shard: the features of `config` to make, with the numbers they have in the whole.
    """
    options = options or InitOptions()
    start, stop = shard.range(config.d_sae)
    sae = SAE(replace(config, d_sae=stop - start))
    unit_FO = _unit_rows(start, stop, config.reconstructs, (seed, DECODER))
    sae.W_dec.copy_(unit_FO * options.decoder_norm)
    if config.d_out is None:
        sae.W_enc.copy_(sae.W_dec.T * options.encoder_scale)
    else:
        unit_FD = _unit_rows(start, stop, config.d_in, (seed, ENCODER))
        sae.W_enc.copy_(unit_FD.T * (options.decoder_norm * options.encoder_scale))
    if config.architecture == "jumprelu":
        sae.threshold.fill_(options.threshold)
    return sae


def _unit_rows(start: int, stop: int, width: int, entropy: tuple[int, ...]) -> Tensor:
    """Rows start .. stop of an endless matrix of random unit vectors."""
    rows = []
    for block in range(start // BLOCK, -(-stop // BLOCK)):
        state = int(np.random.SeedSequence((*entropy, block)).generate_state(1)[0])
        block_FD = torch.randn(BLOCK, width, generator=torch.Generator().manual_seed(state))
        rows.append(block_FD[max(start - block * BLOCK, 0) : stop - block * BLOCK])
    return F.normalize(torch.cat(rows), dim=1)


def create(d_in: int, d_sae: int, k: int, *, seed: int = 0, metadata: dict[str, object] | None = None) -> SAE:
    """A fresh TopK autoencoder: decoder rows are random unit vectors, the encoder is their transpose.

    It selects by h * ||W_dec|| (rescale_acts_by_decoder_norm), so that drifting decoder norms cannot change
    which features win; fold_decoder_norm removes the norms at export.
    """
    config = SAEConfig(
        "topk", d_in, d_sae, k=k, rescale_acts_by_decoder_norm=True, metadata=dict(metadata or {})
    )
    return initialise(config, seed=seed)


@torch.no_grad()
def fit_encoder_scale(sae: SAE, x_BD: Tensor, y_BD: Tensor | None = None) -> float:
    """Scales the encoder once so that the first reconstruction of x fits best (least squares); the factor.

    Only for a fresh autoencoder with zero biases: activations and so the reconstruction are then
    proportional to the encoder's scale, and the support does not change. Thresholds are scaled along.
    """
    target_BD = (x_BD if y_BD is None else y_BD).float()
    r_BD = sae.decode_sparse(sae.encode_sparse(x_BD), x_BD) - sae.b_dec
    fitted = float((r_BD * (target_BD - sae.b_dec)).sum() / r_BD.square().sum().clamp(min=1e-30))
    if fitted <= 0:
        return 1.0  # a reconstruction that points away from the input: no scale helps
    sae.W_enc.mul_(fitted)
    if sae.config.architecture == "jumprelu":
        sae.threshold.mul_(fitted)
    return fitted
