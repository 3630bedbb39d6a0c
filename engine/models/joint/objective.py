"""The joint model's training objective over pairs of a cell and its caption.

Legend: B pairs of a batch, T packed tokens, S tokens of the longest text, D width of features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from engine.models.errors import ModelError
from engine.models.joint.large_batches import Chunk, features_in_chunks, gather_rows, most_rows
from engine.models.joint.losses import LossKind, contrastive_loss, same_caption
from engine.models.joint.model import JointModel
from engine.models.joint.text_tower import TextTokens
from engine.models.objective import Loss
from engine.models.tokens import PackedTokens

Positives = Literal["caption", "pair", "distinct"]
POSITIVES = ("caption", "pair", "distinct")


@dataclass(frozen=True)
class ObjectiveOptions:
    """How a batch is judged.

    positives: "caption", all pairs of one caption number are each other's; "pair", a cell's own text alone,
        as in the original. SigLIP with "pair" takes equal captions for negatives. "distinct", each caption
        number is one text, that of its first pair, however many cells of the batch have it: a cell is asked
        which caption it has, and a rare caption has no better chance than a common one with as good a score.
    learn_scale: whether the temperature learns. largest_scale: what it may grow to (CLIP's 100); None for no
        limit, as in CellWhisperer.
    chunk: pairs a tower computes at once; the rest of the batch keeps only its features. 0: all at once.
    """

    kind: LossKind = "infonce"
    positives: Positives = "caption"
    learn_scale: bool = True
    largest_scale: float | None = 100.0
    chunk: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("infonce", "siglip") or self.positives not in POSITIVES:
            raise ModelError(
                f"loss {self.kind!r}, positives {self.positives!r}: need infonce or siglip, and one of "
                f"{', '.join(POSITIVES)}"
            )
        if self.chunk < 0:
            raise ModelError(f"chunk is {self.chunk}; it must be 0 (all at once) or more")


class TrainingModule(nn.Module):
    """The model with its loss; a training loop calls `forward` alone."""

    def __init__(self, model: JointModel, options: ObjectiveOptions) -> None:
        super().__init__()
        if (options.kind == "siglip") != model.config.sigmoid:
            raise ModelError(f"loss {options.kind} does not fit a model with sigmoid={model.config.sigmoid}")
        self.model, self.options = model, options
        model.log_scale.requires_grad_(options.learn_scale)

    def forward(self, batch: dict[str, Tensor]) -> Loss:
        """Loss of the pairs of all ranks, the same on each; every rank must bring as many pairs.

        batch: `captions_B`, a number per caption, the same on all ranks. Cells as `ids_T`, `values_T`,
        `offsets`, or as `cell_features_BD` computed before. Texts as `text_ids_BS`, `text_mask_BS`, or as
        `text_features_BD`; with `text_of_pair_B` these are rows of distinct texts, and it says which of them
        is each pair's. Optionally `cell_weights_B`, `text_weights_B`.
        Metrics: loss, scale, and both directions' share of pairs whose best partner is a positive.
        """
        cells_BD, texts_BD = self.cell_features(batch), self.text_features(batch)
        if "text_of_pair_B" in batch:
            texts_BD = texts_BD[batch["text_of_pair_B"]]
        # Only towers compute in bfloat16 where autocast asks for it: at scale 100 its cosines tell nothing.
        with torch.autocast(batch["captions_B"].device.type, enabled=False):
            return self._loss(batch, cells_BD.float(), texts_BD.float())

    def _loss(self, batch: dict[str, Tensor], cells_BD: Tensor, texts_BD: Tensor) -> Loss:
        model, options = self.model, self.options
        # Gathered before the heads, not behind them: a BatchNorm there must see the whole batch.
        cells_BU = model.project_cells(gather_rows(cells_BD))
        texts_BU = model.project_texts(gather_rows(texts_BD))
        captions_B = gather_rows(batch["captions_B"])
        same_BB = same_caption(captions_B)
        weights = {
            f"{side}_weights_{letter}": gather_rows(batch[f"{side}_weights_B"])
            for side, letter in (("text", "T"), ("cell", "C"))
            if f"{side}_weights_B" in batch
        }
        asked_TU, positive_TB = texts_BU, same_BB
        if options.positives == "pair":
            positive_TB = torch.eye(len(captions_B), dtype=torch.bool, device=captions_B.device)
        elif options.positives == "distinct":
            first_T = first_of_each(captions_B)
            asked_TU, positive_TB = texts_BU[first_T], same_BB[first_T]
            if "text_weights_T" in weights:
                weights["text_weights_T"] = weights["text_weights_T"][first_T]
        loss = contrastive_loss(
            asked_TU,
            cells_BU,
            positive_TB,
            kind=options.kind,
            scale=self.scale,
            bias=model.bias,
            dims=model.config.dims,
            **weights,
        )
        return Loss(loss, {"scale": self.scale.detach(), **_hits(texts_BU, cells_BU, same_BB)})

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied with, within its limit; a scalar."""
        largest = self.options.largest_scale
        log_scale = self.model.log_scale
        within = log_scale if largest is None else log_scale.clamp(max=math.log(largest))
        return within.exp().reshape(())

    def cell_features(self, batch: dict[str, Tensor]) -> Tensor:
        """Features f_BD of a batch's cells, before its head; see `forward`."""
        if "cell_features_BD" in batch:
            return batch["cell_features_BD"]
        return self._run("cell", _cell_chunks(batch, self.options.chunk), self.model.cell_features)

    def text_features(self, batch: dict[str, Tensor]) -> Tensor:
        """Features of a batch's texts, before their head: of distinct ones where the batch has those."""
        if "text_features_BD" in batch:
            return batch["text_features_BD"]
        n_texts, device = len(batch["text_ids_BS"]), batch["text_ids_BS"].device
        chunks = _text_chunks(batch, self.options.chunk, most_rows(n_texts, device))
        return self._run("text", chunks, self.model.text_features)[:n_texts]

    def _run(self, tower: str, chunks: Iterator[Chunk], features: Callable[[Chunk], Tensor]) -> Tensor:
        """Features of all chunks; only a tower that learns has anything to run again for."""
        if self.options.chunk and self.model.learns(tower):
            return features_in_chunks(features, chunks)
        found: Tensor = torch.cat([features(chunk) for chunk in chunks])
        return found


def first_of_each(captions_B: Tensor) -> Tensor:
    """Row of the first pair of each caption number, ascending by number."""
    distinct, of_pair_B = torch.unique(captions_B, return_inverse=True)
    rows_B = torch.arange(len(captions_B), device=captions_B.device)
    last = torch.full_like(distinct, len(captions_B))
    return last.scatter_reduce(0, of_pair_B, rows_B, "amin")


def _cell_chunks(batch: dict[str, Tensor], chunk: int) -> Iterator[PackedTokens]:
    """The batch's cells, `chunk` at a time."""
    ids_T, values_T, offsets = batch["ids_T"], batch["values_T"], batch["offsets"].cpu()
    n_cells = len(offsets) - 1
    for first in range(0, n_cells, chunk or n_cells):
        own = offsets[first : first + (chunk or n_cells) + 1]
        start, stop = int(own[0]), int(own[-1])
        yield PackedTokens.from_tensors(ids_T[start:stop], values_T[start:stop], own - start)


def _text_chunks(batch: dict[str, Tensor], chunk: int, n_most: int) -> Iterator[TextTokens]:
    """The batch's texts, `chunk` at a time, and its first text again until there are as many chunks as the
    rank with most texts (`n_most`) has.

    Ranks have other numbers of distinct texts, and weights that ZeRO-3 shares out come together once for
    each chunk: a rank that ran its tower less often would leave the others waiting.
    """
    ids_BS, mask_BS = batch["text_ids_BS"], batch["text_mask_BS"]
    n_texts = len(ids_BS)
    for first in range(0, n_most, chunk or n_most):
        rows = slice(first, first + (chunk or n_most)) if first < n_texts else slice(0, 1)
        cut_B = torch.zeros(len(ids_BS[rows]), dtype=torch.bool)
        yield TextTokens(ids_BS[rows], mask_BS[rows], cut_B)


@torch.no_grad()
def _hits(texts_BU: Tensor, cells_BU: Tensor, same_BB: Tensor) -> dict[str, Tensor]:
    """How often the best cell of a text, and the best text of a cell, is of the same caption."""
    cosine_BB = texts_BU @ cells_BU.T
    rows_B = torch.arange(len(same_BB), device=same_BB.device)
    return {
        "text_to_cell_at_1": same_BB[rows_B, cosine_BB.argmax(1)].float().mean(),
        "cell_to_text_at_1": same_BB[cosine_BB.argmax(0), rows_B].float().mean(),
    }
