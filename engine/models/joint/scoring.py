"""Zero-shot scores of texts on cells, and the texts asked.

Source: CellWhisperer's score_transcriptomes_vs_texts; tests/parity/test_cellwhisperer.py holds this to its
numbers. Legend: T texts, C cells (or groups of them), U width of the common space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from engine.models.errors import ModelError

Normalisation = Literal["softmax", "zscore", "01norm"]

# The prompts CellWhisperer evaluates with, by what a label says of a cell.
TEMPLATES = {
    "celltype": "A sample of {} from a healthy individual",
    "organ_tissue": "A sample of {} from a healthy individual",
    "disease": "A sample from an individual with {}",
    "disease_subtype": "A sample from an individual with {}",
    "tissue": "A {} sample",
    "validation": "Sample of a {}",
}


def prompts(labels: Sequence[str], template: str = "celltype") -> list[str]:
    """The text asked for each label. template: a name in TEMPLATES, or a text with `{}` in it."""
    pattern = TEMPLATES.get(template.lower(), template)
    if pattern.count("{}") != 1:
        raise ModelError(
            f"template {template!r}: expected {', '.join(TEMPLATES)}, or a text with {{}} for the label"
        )
    return [pattern.replace("{}", label) for label in labels]


def scores(
    text_TU: Tensor,
    cell_CU: Tensor,
    scale: Tensor | float = 1.0,
    *,
    normalise: Normalisation | None = None,
) -> Tensor:
    """Scores [T, C]: cosine of unit embeddings times scale.

    normalise: "softmax" or "zscore" (population standard deviation) over the texts of each cell; "01norm"
    over all numbers at once.
    """
    s_TC = (text_TU @ cell_CU.T) * scale
    if normalise == "softmax":
        return s_TC.softmax(0)
    if normalise == "zscore":
        return (s_TC - s_TC.mean(0)) / s_TC.std(0, correction=0)
    if normalise == "01norm":
        return (s_TC - s_TC.min()) / (s_TC.max() - s_TC.min())
    if normalise is not None:
        raise ModelError(f"normalise {normalise!r}: expected softmax, zscore or 01norm")
    return s_TC


def group_means(cell_CU: Tensor, groups: Sequence[str]) -> tuple[list[str], Tensor]:
    """Sorted group names and the mean embedding of each group's cells.

    The means are shorter than one, as in CellWhisperer: a mixed group scores lower on everything.
    Raises ModelError unless every cell has a group.
    """
    if len(groups) != len(cell_CU):
        raise ModelError(f"{len(groups)} groups were given for {len(cell_CU)} cells")
    names = sorted(set(groups))
    number = {name: i for i, name in enumerate(names)}
    of_cell_C = torch.as_tensor([number[group] for group in groups], device=cell_CU.device)
    sums_GU = cell_CU.new_zeros(len(names), cell_CU.shape[1]).index_add_(0, of_cell_C, cell_CU)
    sizes_G = torch.bincount(of_cell_C, minlength=len(names)).to(cell_CU.dtype)
    return names, sums_GU / sizes_G[:, None]
