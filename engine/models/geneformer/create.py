"""A fresh Geneformer model for a list of genes, to be trained from scratch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from engine.models.errors import ModelError
from engine.models.geneformer.config import PRESETS, GeneformerConfig
from engine.models.geneformer.model import GeneformerEncoder
from engine.models.geneformer.tokenise import CLS, EOS, MASK, PAD, GeneformerTokeniser


def create(
    gene_ids: Sequence[str],
    medians: Mapping[str, float],
    *,
    preset: str | None = None,
    n_layers: int | None = None,
    d_model: int | None = None,
    n_heads: int | None = None,
    ffn: int | None = None,
    max_tokens: int | None = None,
    special_tokens: bool | None = None,
    dropout: float | None = None,
    seed: int = 0,
) -> GeneformerEncoder:
    """A fresh encoder for these genes, initialised like BERT (normal, standard deviation 0.02).

    medians: gene id -> median of its non-zero expression (counts per 10,000); genes without one are left out.
    preset: "V1-10M", "V1-40M", "V2-104M" or "V2-316M"; the other arguments override it. Without a preset: 4
    layers, width 128, 4 heads, 512 tokens. special_tokens: with `<cls>` and `<eos>`, like V2 (the default).
    """
    if preset is not None and preset not in PRESETS:
        raise ModelError(f"preset {preset!r} is not known; known are {', '.join(PRESETS)}")
    sizes: dict[str, Any] = {"n_layers": 4, "d_model": 128, "n_heads": 4, "ffn": 512, "max_tokens": 512}
    sizes |= {"special_tokens": True, "dropout": 0.02} | (PRESETS[preset] if preset else {})
    given = {
        "n_layers": n_layers,
        "d_model": d_model,
        "n_heads": n_heads,
        "ffn": ffn,
        "max_tokens": max_tokens,
        "special_tokens": special_tokens,
        "dropout": dropout,
    }
    sizes |= {name: size for name, size in given.items() if size is not None}
    genes = sorted({gene for gene in gene_ids if medians.get(gene, 0) > 0})
    if not genes:
        raise ModelError("none of the genes has a positive median; Geneformer ranks genes by count/median")
    specials = [PAD, MASK, CLS, EOS] if sizes["special_tokens"] else [PAD, MASK]
    vocabulary = {token: token_id for token_id, token in enumerate([*specials, *genes])}
    config = GeneformerConfig(
        vocab_size=len(vocabulary),
        d_model=sizes["d_model"],
        n_layers=sizes["n_layers"],
        n_heads=sizes["n_heads"],
        d_ffn=sizes["ffn"],
        max_tokens=sizes["max_tokens"],
        hidden_dropout=sizes["dropout"],
        attention_dropout=sizes["dropout"],
    )
    tokeniser = GeneformerTokeniser(
        vocabulary, {gene: float(medians[gene]) for gene in genes}, {}, config.max_tokens
    )
    encoder = GeneformerEncoder(config, tokeniser)
    initialise(encoder, seed)
    return encoder


@torch.no_grad()
def initialise(encoder: GeneformerEncoder, seed: int) -> None:
    """BERT's initialisation: normal matrices and tables, zero biases and padding row, unit norms."""
    generator = torch.Generator().manual_seed(seed)
    for module in encoder.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.normal_(0, encoder.config.initializer_range, generator=generator)
        if isinstance(module, nn.Linear):
            module.bias.zero_()
    encoder.embeddings.words.weight[encoder.tokeniser.pad_id].zero_()
