"""A gene's features: identity, pathways, chromosome and locus.

Legend: G genes with features, F frequencies, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.bimamba.config import N_CHROMOSOMES, PerturbationConfig
from engine.models.bimamba.tokenise import OTHER, UNKNOWN_LOCUS, GeneLoci
from engine.models.layers.embedding import Embedding
from engine.models.layers.precision import LayerNorm, Linear


class GeneTokens(nn.Module):
    """Features of all genes, brought to the model's width.

    Buffers (part of a checkpoint): chromosome_G, locus_G, and pathways_GP, which are the user's.
    """

    chromosome_G: Tensor
    locus_G: Tensor
    pathways_GP: Tensor

    def __init__(self, config: PerturbationConfig) -> None:
        super().__init__()
        n_genes = config.n_known
        self.identity = Embedding(n_genes, config.gene_identity_dim)
        self.chromosome = Embedding(N_CHROMOSOMES, config.chromosome_dim)
        self.locus = Linear(2 * config.locus_frequencies, config.locus_dim)
        self.project = Linear(config.feature_dim, config.d_model)
        self.norm = LayerNorm(config.d_model)
        self.register_buffer("chromosome_G", torch.full((n_genes,), OTHER))
        self.register_buffer("locus_G", torch.full((n_genes,), UNKNOWN_LOCUS))
        self.register_buffer("pathways_GP", torch.zeros(n_genes, config.pathway_dim))
        self.n_frequencies = config.locus_frequencies

    def set_loci(self, loci: GeneLoci) -> None:
        """Put genes in their places on the genome."""
        self.chromosome_G.copy_(torch.as_tensor(loci.chromosome_G))
        self.locus_G.copy_(torch.as_tensor(loci.locus_G))

    def forward(self, *, with_identity: bool = True) -> Tensor:
        """token_GD, of measured genes and further targets.

        with_identity: False for what is known of a gene that was never seen: its features alone.
        """
        octave_F = torch.arange(self.n_frequencies, device=self.locus_G.device)
        angle_GF = self.locus_G.float()[:, None] * (math.pi * 2.0**octave_F)
        locus_GL = F.gelu(self.locus(torch.cat([angle_GF.sin(), angle_GF.cos()], 1)))
        identity_GI = self.identity.weight if with_identity else torch.zeros_like(self.identity.weight)
        parts = [identity_GI, self.pathways_GP, self.chromosome(self.chromosome_G), locus_GL.float()]
        token_GD: Tensor = self.norm(self.project(torch.cat(parts, 1)))
        return token_GD
