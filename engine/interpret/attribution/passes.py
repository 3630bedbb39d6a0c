"""The two passes of an attribution over cells in memory: every feature to first order, then a few of them
by integrated gradients and by ablation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from engine.interpret.attribution.effects import Attributor
from engine.interpret.attribution.metrics import Batch, Metric
from engine.interpret.attribution.scores import Checked, Scores, agreement, attribution_table
from engine.models import Encoder, Tokens
from engine.models.interventions import Reading
from engine.models.sae import SAE
from engine.streaming.packing import pack

TOP_SHARE = 0.01
ABLATED = 40


@dataclass(frozen=True)
class Depth:
    """How much is looked at closely: integrated gradients for the strongest `top_share` of the features
    (at least those that are ablated), ablation for the strongest `ablated`."""

    top_share: float = TOP_SHARE
    ablated: int = ABLATED

    def chosen(self, scores: Scores) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Features for integrated gradients and those for ablation."""
        n_integrated = max(int(np.ceil(self.top_share * len(scores.sum_F))), self.ablated)
        strongest = tuple(scores.strongest(n_integrated))
        return strongest, strongest[: self.ablated]


def score_cells(
    attributor: Attributor, tokens: Tokens, cells: npt.NDArray[np.int64], batch_tokens: int
) -> Scores:
    """Attribution patching of all features. cells: the numbers of the cells in their store."""
    scores = Scores.empty(attributor.sae.d_sae)
    for _, batch in _batches(attributor, tokens, cells, batch_tokens):
        x_TD, gradient_TD, m_C, has_C = attributor.gradient(batch)
        pairs = attributor.pairs(x_TD, batch.tokens)
        effect_N = attributor.effects(pairs, gradient_TD)
        cell_N = batch.tokens.layout.cell_T[pairs.rows_R[pairs.at_N]]
        scores.add(cell_N.cpu().numpy(), pairs.feature_N.cpu().numpy(), effect_N.cpu().numpy())
        scores.n_cells += int(has_C.sum())
        scores.value += float(m_C[has_C].double().sum())
    return scores


def check_cells(
    attributor: Attributor,
    tokens: Tokens,
    cells: npt.NDArray[np.int64],
    batch_tokens: int,
    integrated: Sequence[int],
    ablated: Sequence[int],
) -> Checked:
    """Integrated gradients and exact ablation of some features."""
    sums_J = np.zeros(len(integrated))
    exact_CJ = np.full((tokens.n_cells, len(ablated)), np.nan, np.float32)
    place_F = torch.full((attributor.sae.d_sae,), -1, device=attributor.encoder.device)
    place_F[list(integrated)] = torch.arange(len(integrated), device=place_F.device)
    for rows, batch in _batches(attributor, tokens, cells, batch_tokens):
        x_TD, _, _, has_C = attributor.gradient(batch)
        pairs = attributor.pairs(x_TD, batch.tokens).of(place_F >= 0)
        effect_N = attributor.integrated(batch, pairs)
        at_N = place_F[pairs.feature_N].cpu().numpy()
        sums_J += np.bincount(at_N, effect_N.cpu().numpy(), len(integrated))
        change_CJ = attributor.ablated(batch, ablated, cells[rows], batch_tokens)
        exact_CJ[rows] = torch.where(has_C[:, None], change_CJ, torch.nan).cpu().numpy()
    has_metric = ~np.isnan(exact_CJ).any(axis=1)
    return Checked(tuple(integrated), sums_J, tuple(ablated), exact_CJ[has_metric])


def _batches(
    attributor: Attributor, tokens: Tokens, cells: npt.NDArray[np.int64], batch_tokens: int
) -> Iterator[tuple[npt.NDArray[np.int64], Batch]]:
    for rows in pack(tokens.lengths, batch_tokens):
        yield rows, attributor.metric.batch(attributor.encoder, tokens.select(rows), cells[rows])


@dataclass(frozen=True)
class Attribution:
    """features: `scores.attribution_table`. agreement: with exact ablation. value: mean of the metric over
    the n_cells cells that have it."""

    features: pd.DataFrame
    agreement: dict[str, object]
    value: float
    n_cells: int


def attribution_of(scores: Scores, checked: Checked, *, seed: int) -> Attribution:
    """What both passes found, of all cells."""
    table = attribution_table(scores, checked, seed=seed)
    return Attribution(table, agreement(table), scores.value / max(scores.n_cells, 1), scores.n_cells)


def attribute(
    encoder: Encoder,
    tokens: Tokens,
    sae: SAE | Reading,
    metric: Metric,
    *,
    hook: str,
    depth: Depth | None = None,
    batch_tokens: int = 4096,
    seed: int = 0,
) -> Attribution:
    """Which features of an autoencoder a metric of some cells rests on.

    sae: an autoencoder, or a `Reading` of one that was trained on gene residuals.
    The autoencoder must be on the encoder's device; the encoder's weights stop asking for gradients. Raises
    ModelError when the encoder does not have what the metric reads.
    """
    reading = sae if isinstance(sae, Reading) else Reading.of(encoder, sae)
    attributor, cells = Attributor(encoder, reading, hook, metric), np.arange(tokens.n_cells)
    scores = score_cells(attributor, tokens, cells, batch_tokens)
    integrated, ablated = (depth or Depth()).chosen(scores)
    checked = check_cells(attributor, tokens, cells, batch_tokens, integrated, ablated)
    return attribution_of(scores, checked, seed=seed)
