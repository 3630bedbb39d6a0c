"""Which genes of a cell its score for a text rests on: integrated gradients through the cell tower and head.

The score of a cell is e . q, its unit embedding by the vector of a question. The path begins at the same cell
with every gene's state at the hook `embed` replaced by their mean: a cell that has so many genes, and none in
particular. Contributions of the genes add up to the score less the score there (Sundararajan and others
2017), within the error of the integral.

Legend: T tokens of one cell, D width of the tower, U width of the common space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.models.encoder import Encoder
from engine.models.errors import ModelError
from engine.models.joint.sides import CellSide
from engine.models.tokens import PackedTokens, Tokens

EMBED = "embed"
NODES = 8
"""Of Gauss-Legendre on the path, each a pass forward and back. Small towers of both architectures have kinks
(ReLU): eight leave up to a twentieth of the difference, 64 a hundredth."""


@dataclass(frozen=True)
class TextAttribution:
    """Of one cell. contribution_T: of every token, in its order; 0 for tokens that are no gene. score: of the
    cell. baseline: of the cell without genes in particular."""

    contribution_T: npt.NDArray[np.float64]
    score: float
    baseline: float


def attribute_text(
    encoder: Encoder, side: CellSide, tokens: Tokens, question_U: Tensor, nodes: int = NODES
) -> TextAttribution:
    """Contributions to the score e . q of one cell. Raises ModelError for more cells, and for none.

    The weights should need no gradient: what is made on the way to theirs would be kept for nothing.
    """
    if tokens.n_cells != 1 or tokens.n_tokens == 0:
        raise ModelError(f"attribution is of one cell with tokens; these are {tokens.n_cells} cells")
    packed = encoder.packed(tokens)
    at_N, weight_N = np.polynomial.legendre.leggauss(nodes)
    total_T = torch.zeros(tokens.n_tokens, dtype=torch.float64)
    for at, weight in zip((at_N + 1) / 2, weight_N / 2, strict=True):
        total_T += float(weight) * _step(encoder, side, packed, question_U, float(at)).double().cpu()
    with torch.no_grad():
        ends = [float(_score(encoder, side, packed, question_U, _Path(encoder, at))) for at in (1.0, 0.0)]
    return TextAttribution(total_T.numpy(), *ends)


class _Path:
    """The intervention at one point of the path, 0 to 1. It keeps the state that gradients are asked for, and
    how far each token is from where the path began."""

    def __init__(self, encoder: Encoder, at: float) -> None:
        self._encoder, self._at = encoder, at
        self.state_TD = self.way_TD = torch.empty(0)

    def __call__(self, x_TD: Tensor, tokens: PackedTokens) -> Tensor:
        x_TD = x_TD.detach()
        gene_T1 = self._encoder.is_gene(tokens.ids_T)[:, None]
        mean_D = (x_TD * gene_T1).sum(dim=0) / gene_T1.sum().clamp(min=1)
        self.way_TD = torch.where(gene_T1, x_TD - mean_D, torch.zeros_like(x_TD))
        self.state_TD = (x_TD - (1 - self._at) * self.way_TD).requires_grad_(torch.is_grad_enabled())
        return self.state_TD


def _step(encoder: Encoder, side: CellSide, packed: PackedTokens, question_U: Tensor, at: float) -> Tensor:
    """Gradient by way, of every token, at one point of the path."""
    path = _Path(encoder, at)
    with torch.enable_grad():
        score = _score(encoder, side, packed, question_U, path)
        (gradient_TD,) = torch.autograd.grad(score, path.state_TD)
    return (gradient_TD * path.way_TD).sum(dim=1)


def _score(encoder: Encoder, side: CellSide, packed: PackedTokens, question_U: Tensor, path: _Path) -> Tensor:
    return side.through(encoder, packed, {EMBED: path})[0] @ question_U
