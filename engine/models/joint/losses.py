"""Contrastive losses between texts and cells, as pure functions of embeddings.

Sources: InfoNCE as in CLIP (arXiv:2103.00020) with several positives per row; SigLIP (arXiv:2303.15343);
Matryoshka (arXiv:2205.13147). Legend: T texts, C cells, B pairs, U width of the common space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.models.errors import ModelError
from engine.models.joint.model import cut

LossKind = Literal["infonce", "siglip"]


def same_caption(caption_B: Tensor) -> Tensor:
    """Positives of pairs with these caption numbers, bool [B, B]: all pairs within a caption."""
    return caption_B[:, None] == caption_B[None, :]


def info_nce(
    text_TU: Tensor,
    cell_CU: Tensor,
    scale: Tensor | float,
    positive_TC: Tensor,
    text_weights_T: Tensor | None = None,
    cell_weights_C: Tensor | None = None,
) -> Tensor:
    """Cross entropy of finding a text's cells among all cells and a cell's texts among all texts, halved.

    positive_TC: bool; a row's positives share its target equally, and every row and column needs one. Where
        texts of one caption have the very same embedding, this is the loss with one positive each, gradient
        included; it is another one where they differ: paraphrases, captions grouped by label, dropout.
    Weights: of texts and of cells; each direction is then a weighted mean. Only their ratios matter.
    """
    logits_TC = scale * text_TU @ cell_CU.T
    of_texts = _direction(logits_TC, positive_TC, text_weights_T)
    of_cells = _direction(logits_TC.T, positive_TC.T, cell_weights_C)
    return (of_texts + of_cells) / 2


def sigmoid_loss(
    text_TU: Tensor,
    cell_CU: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    positive_TC: Tensor,
    text_weights_T: Tensor | None = None,
    cell_weights_C: Tensor | None = None,
) -> Tensor:
    """SigLIP: every text and cell are judged alone, positive or not; sum over cells, mean over texts.

    A pair weighs the product of its text's and its cell's weight, scaled to mean one.
    """
    logits_TC = scale * text_TU @ cell_CU.T + bias
    sign_TC = torch.where(positive_TC, 1.0, -1.0)
    loss_TC = -F.logsigmoid(sign_TC * logits_TC)
    if text_weights_T is not None:
        loss_TC = loss_TC * (text_weights_T / text_weights_T.mean())[:, None]
    if cell_weights_C is not None:
        loss_TC = loss_TC * (cell_weights_C / cell_weights_C.mean())[None, :]
    return loss_TC.sum() / len(text_TU)


def contrastive_loss(
    text_TU: Tensor,
    cell_CU: Tensor,
    positive_TC: Tensor,
    *,
    kind: LossKind,
    scale: Tensor | float,
    bias: Tensor | float | None = None,
    dims: Sequence[int] = (),
    text_weights_T: Tensor | None = None,
    cell_weights_C: Tensor | None = None,
) -> Tensor:
    """Mean of the loss over the Matryoshka widths `dims` (none: the whole), cut and normalised for each.

    Raises ModelError for SigLIP without a bias.
    """
    if kind == "siglip" and bias is None:
        raise ModelError("the SigLIP loss needs the model's bias; make the model with sigmoid=True")
    losses = []
    for dim in dims or (text_TU.shape[1],):
        texts, cells, weights = cut(text_TU, dim), cut(cell_CU, dim), (text_weights_T, cell_weights_C)
        if kind == "infonce":
            losses.append(info_nce(texts, cells, scale, positive_TC, *weights))
        elif bias is not None:
            losses.append(sigmoid_loss(texts, cells, scale, bias, positive_TC, *weights))
    return torch.stack(losses).mean()


def _direction(logits_RS: Tensor, positive_RS: Tensor, weights_R: Tensor | None) -> Tensor:
    """Weighted mean over rows of the cross entropy against targets spread over each row's positives."""
    target_RS = positive_RS.to(logits_RS.dtype)
    target_RS = target_RS / target_RS.sum(1, keepdim=True)
    loss_R = -(target_RS * F.log_softmax(logits_RS, dim=1)).sum(1)
    return loss_R.mean() if weights_R is None else (loss_R * weights_R).sum() / weights_R.sum()
