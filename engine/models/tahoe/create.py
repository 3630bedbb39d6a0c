"""A fresh Tahoe-x1 model for a list of genes, to be trained from scratch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from engine.models.errors import ModelError
from engine.models.tahoe.config import PRESETS, CollatorConfig, TahoeConfig
from engine.models.tahoe.model import Block, TahoeEncoder
from engine.models.tahoe.tokenise import TahoeTokeniser


def create(
    gene_ids: Sequence[str],
    *,
    preset: str | None = None,
    n_layers: int | None = None,
    d_model: int | None = None,
    n_heads: int | None = None,
    expansion: int = 4,
    max_tokens: int | None = None,
    activation: str | None = None,
    seed: int = 0,
) -> TahoeEncoder:
    """A fresh encoder for these genes (Ensembl ids; sorted and made unique), initialised as the original is.

    preset: "70m", "1b" or "3b"; the other arguments override it. Without a preset the sizes are those of
    a small model that trains on a CPU (4 layers, width 128, 4 heads, 512 tokens).
    """
    if preset is not None and preset not in PRESETS:
        raise ModelError(f"preset {preset!r} is not known; known are {', '.join(PRESETS)}")
    sizes: dict[str, Any] = {
        "n_layers": 4,
        "d_model": 128,
        "n_heads": 4,
        "max_tokens": 512,
        "activation": "relu",
    }
    sizes |= PRESETS[preset] if preset else {}
    given = {
        "n_layers": n_layers,
        "d_model": d_model,
        "n_heads": n_heads,
        "max_tokens": max_tokens,
        "activation": activation,
    }
    sizes |= {name: size for name, size in given.items() if size is not None}
    vocabulary = _vocabulary(gene_ids)
    function = sizes["activation"]
    config = TahoeConfig(
        vocab_size=len(vocabulary),
        d_model=sizes["d_model"],
        n_layers=sizes["n_layers"],
        n_heads=sizes["n_heads"],
        expansion_ratio=expansion,
        transformer_activation=function,
        gene_use_norm=True,
        value_activation=function,
        value_use_norm=True,
        decoder_layers=1,
        decoder_activation="gelu" if function == "gelu" else "leaky_relu",
        mvc_scaled=True,
        collator=CollatorConfig(max_length=sizes["max_tokens"]),
    )
    encoder = TahoeEncoder(config, TahoeTokeniser(vocabulary, config.collator))
    initialise(encoder, seed)
    return encoder


def _vocabulary(gene_ids: Sequence[str]) -> dict[str, int]:
    """Specials, genes in lexical order, then unused tokens up to a multiple of 64, like the released ones."""
    genes = sorted(set(gene_ids))
    if not genes:
        raise ModelError("a model needs at least one gene id")
    tokens = ["<pad>", "<cls>", "<eoc>", *genes]
    tokens += [f"<junk{i}>" for i in range(-len(tokens) % 64)]
    return {token: token_id for token_id, token in enumerate(tokens)}


@torch.no_grad()
def initialise(encoder: TahoeEncoder, seed: int) -> None:
    """The original's initialisation: Kaiming normal (fan in, ReLU) for all matrices, zero biases, unit norms.

    Outputs onto the residual stream are divided by sqrt(2 n_layers); the padding row is zero.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in encoder.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            scale = math.sqrt(2 / module.weight.shape[1])
            module.weight.normal_(0, scale, generator=generator)
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.zero_()
    for module in encoder.modules():
        if isinstance(module, Block):
            module.attention.out.weight.div_(math.sqrt(2 * encoder.n_layers))
            module.ffn.down.weight.div_(math.sqrt(2 * encoder.n_layers))
    encoder.genes.table.weight[encoder.tokeniser.pad_id].zero_()
