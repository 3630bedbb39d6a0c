"""What an encoder predicts, and how it embeds cells, when reconstructions stand in for its own states.

The same cells, with the same genes hidden, go through the encoder once as it is and once for every
replacement of the state at the hook: each dictionary's reconstruction, zeros, the mean state. Tokens of other
kinds than the autoencoder was trained on (special ones) keep their states. Loss is measured where genes are
hidden; replaced are either all genes ("all_genes") or only those shown to the model ("shown_genes"): an
autoencoder trained on cells as they are has never seen a hidden gene's state, but at a late hook nothing else
reaches the prediction.

Shape legend: T packed tokens, R replaced rows of them, D width, C cells, M hidden tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from engine import models
from engine.interpret.evaluation.dictionaries import TOKENS_AT_ONCE, Dictionary
from engine.interpret.evaluation.inputs import EvaluationInputs
from engine.interpret.runs import Float32, Float64, Int64
from engine.models import geneformer, tahoe
from engine.models.encoder import Encoder, Intervention, layer_hook
from engine.models.geneformer import GeneformerEncoder
from engine.models.tahoe import TahoeEncoder
from engine.models.tokens import PackedTokens, Tokens
from storage.checkpoints import local_copy

ALL_GENES, SHOWN_GENES = "all_genes", "shown_genes"
SCOPES = (ALL_GENES, SHOWN_GENES)
BASE, ZERO, MEAN = "base", "zero", "mean"

# States of some tokens x_RD and the token ids the model was shown there -> what stands in for them.
Replacement = Callable[[Tensor, Tensor], Tensor]
Losses = dict[str, Float64]
"""Summed loss of each cell [C], by term."""


@dataclass(frozen=True)
class ChunkResult:
    """Of some cells. hidden_C: hidden genes. losses: by (replacement, scope). embeddings e_CD: by
    (replacement, pooling)."""

    cell_C: Int64
    hidden_C: Int64
    losses: Mapping[tuple[str, str], Losses]
    embeddings: Mapping[tuple[str, str], Float32]


def replacements(
    dictionaries: Mapping[str, Dictionary], mean_D: Tensor, gene_means_GD: Tensor | None = None
) -> dict[str, Replacement]:
    """Every dictionary's reconstruction, zero ablation and mean ablation.

    gene_means_GD: of an autoencoder trained on gene residuals, which explains what is left beside them (of a
    hidden gene the model is shown no gene, so none is used); mean_D is then the residuals' mean.
    """
    parts: dict[str, Callable[[Tensor], Tensor]] = {
        name: partial(_reconstructed, dictionary) for name, dictionary in dictionaries.items()
    }
    parts[MEAN] = lambda x_RD: mean_D.to(x_RD).expand_as(x_RD)
    found = {name: partial(_beside_gene_means, part, gene_means_GD) for name, part in parts.items()}
    return {**found, ZERO: lambda x_RD, ids_R: torch.zeros_like(x_RD)}


def _reconstructed(dictionary: Dictionary, x_RD: Tensor) -> Tensor:
    starts = range(0, len(x_RD), TOKENS_AT_ONCE)
    pieces = [dictionary.explain(x_RD[start : start + TOKENS_AT_ONCE]).r_TD for start in starts]
    return torch.cat(pieces)


def _beside_gene_means(
    part: Callable[[Tensor], Tensor], gene_means_GD: Tensor | None, x_RD: Tensor, ids_R: Tensor
) -> Tensor:
    if gene_means_GD is None:
        return part(x_RD.float()).to(x_RD.dtype)
    means_RD = gene_means_GD[ids_R]
    return (part(x_RD.float() - means_RD) + means_RD).to(x_RD.dtype)


def spliced(replacement: Replacement, rows_R: Tensor) -> Intervention:
    """The intervention that replaces the states of these packed rows."""

    def intervene(x_TD: Tensor, tokens: PackedTokens) -> Tensor:
        if not len(rows_R):
            return x_TD
        return x_TD.index_copy(0, rows_R, replacement(x_TD[rows_R], tokens.ids_T[rows_R]))

    return intervene


@lru_cache(maxsize=1)
def _loaded(path: str, fingerprint: str, device: str) -> Encoder:
    """Once a worker process; the fingerprint tells a replaced directory apart."""
    return models.load(local_copy(path)).to(device).eval()


def run_chunk(
    inputs: EvaluationInputs,
    dictionaries: Mapping[str, Dictionary],
    mean_D: Tensor,
    cells: Int64,
    seed: int,
    device: str = "cpu",
) -> ChunkResult:
    """All replacements on some cells (rows of the store, ascending)."""
    if inputs.downstream is None:
        raise ValueError("without a model there is nothing downstream")
    facts = inputs.downstream.model
    encoder = _loaded(facts.path, facts.fingerprint, device)
    rows = inputs.downstream.store.read_ranges([(int(cell), int(cell) + 1) for cell in cells])
    tokens = facts.tokeniser.tokenise(
        rows.indptr,
        rows.indices,
        rows.counts,
        inputs.downstream.match,
        max_tokens=facts.token_limit(inputs.cache.lineage.get("max_tokens")),
        seed=inputs.cache.seed,
        cells=cells,
    )
    moved = {name: dictionary.to(device) for name, dictionary in dictionaries.items()}
    means_GD = None if inputs.gene_means is None else inputs.gene_means.to(device)
    choices = replacements(moved, mean_D.to(device), means_GD)
    is_ours_T = encoder.tokeniser.token_classes[tokens.ids_T] == inputs.kind
    with torch.inference_mode():
        hidden_C, losses = hidden_losses(
            encoder, tokens, is_ours_T, inputs.hook, choices, seed + int(cells[0])
        )
        embeddings = embeddings_of(encoder, tokens, is_ours_T, inputs.hook, choices)
    return ChunkResult(cells, hidden_C, losses, embeddings)


def hidden_losses(
    encoder: Encoder,
    tokens: Tokens,
    is_ours_T: np.ndarray,
    hook: str,
    choices: Mapping[str, Replacement],
    seed: int,
) -> tuple[Int64, dict[tuple[str, str], Losses]]:
    """Hidden genes of each cell, and its summed losses under every replacement; BASE is without any.

    is_ours_T: tokens (before genes are hidden) of the kind whose states are replaced.
    """
    batch, hidden_T = _masked(encoder, tokens, seed)
    cell_T = tokens.cell_T
    loss = partial(_summed_losses, encoder, batch, hidden_T, cell_T, tokens.n_cells)
    rows = {ALL_GENES: _rows(is_ours_T, encoder), SHOWN_GENES: _rows(is_ours_T & ~hidden_T, encoder)}
    losses = dict.fromkeys([(BASE, scope) for scope in SCOPES], loss(None))
    for name, replacement in choices.items():
        for scope in SCOPES:
            losses[name, scope] = loss({hook: spliced(replacement, rows[scope])})
    return np.bincount(cell_T[hidden_T], minlength=tokens.n_cells), losses


def _rows(wanted_T: np.ndarray, encoder: Encoder) -> Tensor:
    return torch.from_numpy(np.flatnonzero(wanted_T)).to(encoder.device)


def _masked(encoder: Encoder, tokens: Tokens, seed: int) -> tuple[dict[str, Tensor], np.ndarray]:
    """A batch of the encoder's own training objective, and which tokens it hides."""
    if isinstance(encoder, TahoeEncoder):
        batch = tahoe.TrainingModule(encoder).mask(tokens, seed)
        hidden_T = batch["generative_T"].numpy()
    elif isinstance(encoder, GeneformerEncoder):
        batch = geneformer.TrainingModule(encoder).mask(tokens, seed)
        hidden_T = batch["targets_T"].numpy() >= 0
    else:
        raise TypeError(f"no masked objective is known for a {type(encoder).__name__}")
    moved = {name: part if name == "offsets" else part.to(encoder.device) for name, part in batch.items()}
    return moved, hidden_T


def _summed_losses(
    encoder: Encoder,
    batch: dict[str, Tensor],
    hidden_T: np.ndarray,
    cell_T: Int64,
    n_cells: int,
    interventions: Mapping[str, Intervention] | None,
) -> Losses:
    """Summed over the hidden genes of each cell, by term: Tahoe's two squared errors, or cross entropy."""
    packed = PackedTokens.from_tensors(batch["ids_T"], batch["values_T"], batch["offsets"])
    hidden_M = torch.from_numpy(np.flatnonzero(hidden_T)).to(encoder.device)
    target_M = batch["targets_T"][hidden_M]
    if isinstance(encoder, TahoeEncoder):
        out = encoder(
            packed,
            hooks=(),
            predictions=True,
            generative_T=batch["generative_T"],
            interventions=interventions,
        )
        of_terms = {name: (y_T[hidden_M] - target_M) ** 2 for name, y_T in out.predictions.items()}
    else:
        x_TD = encoder(packed, interventions=interventions).hooks["final"]
        logits_MV = encoder.gene_logits(x_TD[hidden_M]).float()  # type: ignore[operator]
        of_terms = {"cross_entropy": F.cross_entropy(logits_MV, target_M, reduction="none")}
    losses = {}
    for name, loss_M in of_terms.items():
        weights = loss_M.double().cpu().numpy()
        losses[name] = np.bincount(cell_T[hidden_T], weights, n_cells).astype(np.float64)
    return losses


def embeddings_of(
    encoder: Encoder, tokens: Tokens, is_ours_T: np.ndarray, hook: str, choices: Mapping[str, Replacement]
) -> dict[tuple[str, str], Float32]:
    """Embeddings of the cells as they are, and with the states of all tokens of our kind replaced."""
    state = layer_hook(embedding_layer(encoder, hook), encoder.n_layers)
    packed = encoder.packed(tokens)
    rows_R = _rows(is_ours_T, encoder)
    asked: dict[str, Any] = {BASE: None}
    asked |= {name: {hook: spliced(replacement, rows_R)} for name, replacement in choices.items()}
    embeddings = {}
    for name, interventions in asked.items():
        x_TD = encoder(packed, hooks=(state,), interventions=interventions).hooks[state]
        for pool in dict.fromkeys((encoder.default_pool, "mean")):
            embeddings[name, pool] = encoder.pooled(x_TD, packed, pool).float().cpu().numpy()
    return embeddings


def embedding_layer(encoder: Encoder, hook: str) -> int:
    """The model's own embedding layer, or the last one where that does not come after the hook."""
    layer, hooks = encoder.default_layer, encoder.hook_names
    reached = hooks.index(layer_hook(layer, encoder.n_layers)) >= hooks.index(hook)
    return layer if reached else encoder.n_layers - 1
