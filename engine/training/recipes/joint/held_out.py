"""How good a joint model is on cells it has not seen: loss, and class-level recall both ways.

Legend: N cells, K captions, B pairs, U width of the common space.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from engine.models import joint
from engine.models.joint.large_batches import gather_rows
from engine.retrieval.recalls import class_recall
from engine.training.recipe import SCORE, Share
from engine.training.recipes.joint.pairs import Int64, Pairs

# Enough for the third digit of a recall; a judgement is to cost little beside the steps between two.
MOST_CELLS, MOST_TEXTS = 4096, 1024
PAIRS_OF_A_LOSS = 512
CELLS_AT_ONCE = 64
SETTLING_CELLS = 2048
KS = (1, 10)


@torch.no_grad()
def judge(module: joint.TrainingModule, pairs: Pairs, share: Share, device: torch.device) -> dict[str, float]:
    """Measures on the held-out cells; the score is the mean of both directions' recall of labels at 1, less
    a hundredth of the loss. Nothing where no cell is held out. Collective.

    Queries from cells to texts are ranked against the captions of all cells, held out or not.
    """
    model = module.model
    settle(module, pairs, share, device)
    model.eval()
    found = {}
    if len(pairs.held_out):
        random = np.random.default_rng(0)
        cells = pairs.held_out
        if len(cells) > MOST_CELLS:
            cells = np.sort(random.choice(cells, MOST_CELLS, replace=False))
        of_cell = pairs.captions.of_cell_C[cells].astype(np.int64)
        asked = np.unique(of_cell)
        others = np.setdiff1d(np.unique(pairs.captions.of_cell_C[pairs.learnt]), asked)
        texts = np.concatenate([asked, others])[: max(MOST_TEXTS, len(asked))].astype(np.int64)
        cells_NU = _all_rows(cells, share, lambda part: _embed_cells(module, pairs, part, device))
        texts_KU = _all_rows(texts, share, lambda part: _embed_texts(module, pairs, part, device))
        found = _measures(module, cells_NU, texts_KU, of_cell, texts, len(asked))
    model.train()
    return found


@torch.no_grad()
def settle(module: joint.TrainingModule, pairs: Pairs, share: Share, device: torch.device) -> None:
    """Sets the running statistics of the heads' BatchNorm, if they have any, to those of their weights now.

    In training they follow the weights with a lag that costs recall. Collective.
    """
    model = module.model
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm1d)]
    if not norms:
        return
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    with closing(pairs.batches(model, 0, share)) as stream:  # type: ignore[type-var]
        for batch in islice(stream, batches_of(pairs, SETTLING_CELLS, share.batch)):
            batch = on_device(batch, device)
            texts_BD = module.text_features(batch)[batch["text_of_pair_B"]]
            model.cell_head(gather_rows(module.cell_features(batch)))
            model.text_head(gather_rows(texts_BD))
    for norm in norms:
        norm.momentum = 0.1
    model.train()


def batches_of(pairs: Pairs, cells: int, batch: int) -> int:
    """Batches that hold so many cells, or all there are."""
    return -(-min(cells, len(pairs.learnt)) // batch)


def on_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Offsets stay: they say where cells lie to code on the CPU; all else is the model's."""
    return {
        name: tensor if name == "offsets" else tensor.to(device, non_blocking=True)
        for name, tensor in batch.items()
    }


def _all_rows(rows: Int64, share: Share, embed: Callable[[Int64], Tensor]) -> Tensor:
    """Embeddings of these rows on every worker, each of which makes its part of them.

    All bring as many, some of them twice, since collectives and weights that ZeRO-3 shares out want that.
    """
    size = -(-len(rows) // share.world)
    own = np.resize(rows, size * share.world)[share.rank * size : (share.rank + 1) * size]
    parts = [embed(own[start : start + CELLS_AT_ONCE]) for start in range(0, size, CELLS_AT_ONCE)]
    return gather_rows(torch.cat(parts))[: len(rows)]


def _embed_cells(module: joint.TrainingModule, pairs: Pairs, cells: Int64, device: torch.device) -> Tensor:
    """A cell without tokens gets zeros: it is found by nothing and finds nothing."""
    batch = on_device(pairs.cells(module.model, cells), device)
    return module.model.project_cells(module.cell_features(batch)).nan_to_num()


def _embed_texts(module: joint.TrainingModule, pairs: Pairs, texts: Int64, device: torch.device) -> Tensor:
    batch = on_device(pairs.texts(module.model, texts), device)
    return module.model.project_texts(module.text_features(batch))


def _measures(
    module: joint.TrainingModule,
    cells_NU: Tensor,
    texts_KU: Tensor,
    of_cell: Int64,
    texts: Int64,
    n_asked: int,
) -> dict[str, float]:
    """of_cell: caption number of each cell. texts: of each text, first those of held-out cells, `n_asked`."""
    scores_NK = (cells_NU @ texts_KU.T).cpu().numpy()
    to_text = class_recall(scores_NK, of_cell, texts, KS)
    to_cell = class_recall(scores_NK[:, :n_asked].T, texts[:n_asked], of_cell, KS)
    loss = _loss(module, cells_NU, texts_KU, of_cell, texts)
    return {
        "held_out_loss": loss,
        **{f"held_out_cell_to_text_at_{k}": to_text[f"recall@{k}"] for k in KS},
        **{f"held_out_text_to_cell_at_{k}": to_cell[f"recall@{k}"] for k in KS},
        SCORE: (to_text["macro_recall@1"] + to_cell["macro_recall@1"]) / 2 - loss / 100,
    }


def _loss(
    module: joint.TrainingModule, cells_NU: Tensor, texts_KU: Tensor, of_cell: Int64, texts: Int64
) -> float:
    """Mean over batches of up to 512 held-out pairs, drawn at random once."""
    order = np.random.default_rng(1).permutation(len(of_cell))
    place = {int(number): row for row, number in enumerate(texts)}
    size = min(PAIRS_OF_A_LOSS, len(order))
    losses = []
    for start in range(0, len(order) - size + 1, size):
        part = order[start : start + size]
        numbers = torch.from_numpy(of_cell[part])
        texts_BU = texts_KU[[place[int(number)] for number in of_cell[part]]]
        losses.append(
            joint.contrastive_loss(
                texts_BU,
                cells_NU[part],
                joint.same_caption(numbers).to(cells_NU.device),
                kind=module.options.kind,
                scale=module.scale,
                bias=module.model.bias,
                dims=module.model.config.dims,
            )
        )
    return float(torch.stack(losses).mean())
