"""A fresh perturbation model for a list of genes.

Legend: G measured genes, K known genes (measured ones, then further targets), P pathway features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engine.models.bimamba.config import PerturbationConfig
from engine.models.bimamba.model import PerturbationModel
from engine.models.bimamba.tokenise import gene_loci
from engine.models.errors import ModelError


def create(
    config: PerturbationConfig,
    genes: Sequence[str],
    *,
    targets: Sequence[str] = (),
    positions: Any = None,
    pathways: npt.ArrayLike | None = None,
    seed: int = 0,
) -> PerturbationModel:
    """A fresh model in eval mode on the CPU; the same seed gives the same weights.

    genes: names or ids of the measured genes, in the order of every [B, G] tensor.
    targets: further genes that can be perturbed though nobody measures them.
    positions: columns gene, chromosome, start (`tokenise.gene_loci`); genes are read along the genome.
    pathways: [K, P] features of all known genes, standardised by column; P is `config.pathway_dim`.
    Raises ModelError when names repeat or sizes differ from the configuration's.
    """
    known = [*genes, *targets]
    if (len(genes), len(targets)) != (config.n_genes, config.n_targets):
        raise ModelError(
            f"{len(genes)} genes and {len(targets)} further targets, but the configuration has n_genes "
            f"{config.n_genes} and n_targets {config.n_targets}"
        )
    if len(set(known)) < len(known):
        twice = sorted({name for name in known if known.count(name) > 1})[:5]
        raise ModelError(f"genes: {', '.join(twice)} occur twice; a name must mean one gene")
    features = _pathways(pathways, len(known), config.pathway_dim)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PerturbationModel(config)
        initialise(model)
    loci = gene_loci(known, positions)
    model.genes, model.targets = tuple(genes), tuple(targets)
    model.gene_tokens.set_loci(loci)
    model.order_G.copy_(torch.as_tensor(loci.order(config.n_genes)))
    model.gene_tokens.pathways_GP.copy_(torch.as_tensor(features))
    return model.eval()


@torch.no_grad()
def initialise(model: PerturbationModel) -> None:
    """What modules do not set by themselves.

    Output maps of L residual layers start 1/sqrt(L) as large (GPT-2's rule, also mamba-ssm's). Targets that
    nobody measures have no identity until training gives them one: one never seen stays its features.
    """
    model.gene_tokens.identity.weight[model.config.n_genes :].zero_()
    if not model.config.residual:
        return
    for name, weight in model.layers.named_parameters():
        if name.endswith("out_proj.weight"):
            weight.div_(math.sqrt(len(model.layers)))


def _pathways(pathways: npt.ArrayLike | None, n_genes: int, width: int) -> npt.NDArray[np.float32]:
    features = np.zeros((n_genes, 0), np.float32) if pathways is None else np.asarray(pathways, np.float32)
    if features.shape != (n_genes, width):
        raise ModelError(
            f"pathways: shape {features.shape}, expected {(n_genes, width)}: a row for every gene and "
            "further target, and pathway_dim columns"
        )
    if not np.isfinite(features).all():
        raise ModelError("pathways: some values are not finite")
    return features
