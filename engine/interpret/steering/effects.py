"""What edits do to a batch of cells: to the predictions of their genes and to their embeddings.

Legend: T packed tokens of the cells, R gene tokens among them, V versions of each cell, Q predicted
quantities, C cells, D width, L labels, E experiments, G token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.interpret.steering.design import Design
from engine.interpret.steering.grid import EditGrid, repeated
from engine.interpret.steering.predictions import quantities, shown, states_and_predictions
from engine.models import Encoder, PackedTokens
from engine.models.encoder import layer_hook
from engine.models.interventions import Reading


class BatchEffects(NamedTuple):
    """Every change is against the version's reference (`Design.reference`).

    cosine_VC, shift_VC: between embeddings, and the norm of their difference. along_VCL: the difference along
    label directions. moved_VC: root mean square, over the tokens that may be edited, of how far their states
    were moved. edited_VC: tokens that were. on_VQC: mean change of predictions at target genes (NaN without
    one). off_VQC: norm of the changes at all other genes. gene_R, base_QR, change_VQR: by gene token.
    """

    cosine_VC: Tensor
    shift_VC: Tensor
    along_VCL: Tensor
    moved_VC: Tensor
    edited_VC: Tensor
    on_VQC: Tensor
    off_VQC: Tensor
    gene_R: Tensor
    base_QR: Tensor
    change_VQR: Tensor


class Gauge:
    """Measures edits on batches of cells, with one encoder and one autoencoder on its device."""

    def __init__(
        self,
        encoder: Encoder,
        reading: Reading,
        design: Design,
        directions_LD: npt.NDArray[np.float32] | None = None,
    ) -> None:
        self.encoder, self.reading, self.design = encoder, reading, design
        self.quantities = quantities(encoder)
        self.embedding_hook = layer_hook(design.layer, encoder.n_layers)
        directions_LD = np.zeros((0, encoder.d_model), np.float32) if directions_LD is None else directions_LD
        self.directions_LD = torch.from_numpy(directions_LD).to(encoder.device)
        self.reference_V = [design.reference(number) for number in range(len(design.variants))]
        self.target_VG = _targets(design, len(encoder.tokeniser.token_classes)).to(encoder.device)

        self.hidden_G = self.target_VG.any(dim=0)

    @torch.no_grad()
    def __call__(self, tokens: PackedTokens, cells: npt.NDArray[np.int64]) -> BatchEffects:
        """cells: numbers of the batch's cells in their store."""
        n_versions, layout = len(self.design.variants), tokens.layout
        many, rows_VT = repeated(tokens, n_versions)
        hidden_T = self.hidden_G[tokens.ids_T] if self.design.hide_targets else None
        seen = shown(self.encoder, tokens, hidden_T)
        grid = EditGrid(self.reading, self.design, rows_VT, seen, cells)
        states, predicted = states_and_predictions(
            self.encoder,
            many,
            (self.embedding_hook,),
            {self.design.hook: grid},
            None if hidden_T is None else self.hidden_G[many.ids_T],
        )
        e_CVD = self.encoder.pooled(states[self.embedding_hook], many, self.design.pool).view(
            layout.n_cells, n_versions, -1
        )
        gene_T = self.encoder.is_gene(tokens.ids_T)
        rows_R = gene_T.nonzero().squeeze(1)
        y_VQR = torch.zeros(n_versions, len(self.quantities), len(rows_R), device=gene_T.device)
        for number, name in enumerate(self.quantities):
            y_VQR[:, number] = predicted[name][rows_VT[:, rows_R]]
        read_R = self.reading.rows(seen)
        moves = _moves(grid.moved_VT[:, read_R], layout.cell_T[read_R], layout.n_cells)
        gene_R, cell_R = tokens.ids_T[rows_R], layout.cell_T[rows_R]
        return self._compare(e_CVD.transpose(0, 1), y_VQR, gene_R, cell_R, moves)

    def _compare(
        self, e_VCD: Tensor, y_VQR: Tensor, gene_R: Tensor, cell_R: Tensor, moves: tuple[Tensor, Tensor]
    ) -> BatchEffects:
        n_cells = e_VCD.shape[1]
        reference_VCD = e_VCD[self.reference_V]
        shift_VCD = e_VCD - reference_VCD
        change_VQR = y_VQR - y_VQR[self.reference_V]
        target_VR = self.target_VG[:, gene_R]
        n_targets_VC = _per_cell(target_VR.float(), cell_R, n_cells)
        on_VQC = _per_cell(change_VQR * target_VR[:, None], cell_R, n_cells) / n_targets_VC[:, None]
        off_VQC = _per_cell((change_VQR * ~target_VR[:, None]).square(), cell_R, n_cells).sqrt()
        return BatchEffects(
            cosine_VC=F.cosine_similarity(e_VCD, reference_VCD, dim=2),
            shift_VC=shift_VCD.norm(dim=2),
            along_VCL=shift_VCD @ self.directions_LD.T,
            moved_VC=moves[0],
            edited_VC=moves[1],
            on_VQC=on_VQC,
            off_VQC=off_VQC,
            gene_R=gene_R,
            base_QR=y_VQR[0],
            change_VQR=change_VQR,
        )


def _moves(moved_VR: Tensor, cell_R: Tensor, n_cells: int) -> tuple[Tensor, Tensor]:
    """Root mean square of how far a cell's tokens were moved (NaN without any), and how many were."""
    count_1C = _per_cell(torch.ones_like(moved_VR[:1]), cell_R, n_cells)
    square_VC = _per_cell(moved_VR.square(), cell_R, n_cells) / count_1C
    return square_VC.sqrt(), _per_cell((moved_VR > 0).float(), cell_R, n_cells)


def _targets(design: Design, n_ids: int) -> Tensor:
    """Whether a gene is a target of each version's experiment, bool [V, G]."""
    target_VG = torch.zeros(len(design.variants), n_ids, dtype=torch.bool)
    for number, variant in enumerate(design.variants):
        if variant.experiment >= 0:
            target_VG[number, list(design.experiments[variant.experiment].targets)] = True
    return target_VG


def _per_cell(value_XR: Tensor, cell_R: Tensor, n_cells: int) -> Tensor:
    """Sums over the tokens of each cell, in the last dimension; cell_R ascends."""
    if value_XR.is_cuda:  # where index_add_ adds in random order, and members must be the same each time
        return segment_sums(value_XR, torch.bincount(cell_R, minlength=n_cells))
    return value_XR.new_zeros(*value_XR.shape[:-1], n_cells).index_add_(-1, cell_R, value_XR)


def segment_sums(value_XR: Tensor, lengths_C: Tensor) -> Tensor:
    """Sums over runs of these lengths in the last dimension, always in the same order."""
    shape = value_XR.shape[:-1]
    by_row_RX = value_XR.movedim(-1, 0).reshape(value_XR.shape[-1], shape.numel())
    sum_CX = torch.segment_reduce(by_row_RX, "sum", lengths=lengths_C, axis=0, unsafe=True)
    return sum_CX.reshape(len(lengths_C), *shape).movedim(0, -1)


def metric_names(quantities: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Columns that a cell has for every version, in the order of `metric_values`."""
    of_quantities = [f"{kind}_{name}" for name in quantities for kind in ("on_target", "off_target")]
    along = [f"towards_{label}" for label in labels]
    return ["cosine", "shift", "moved", "edited_tokens", *of_quantities, *along]


def metric_values(effects: BatchEffects) -> Tensor:
    """The same for every version and cell, float32 m_VCM."""
    n_quantities = effects.on_VQC.shape[1]
    of_quantities = [
        kind[:, number] for number in range(n_quantities) for kind in (effects.on_VQC, effects.off_VQC)
    ]
    columns = [effects.cosine_VC, effects.shift_VC, effects.moved_VC, effects.edited_VC, *of_quantities]
    return torch.cat([torch.stack(columns, dim=2), effects.along_VCL], dim=2)
