"""All versions of the cells of a batch at once: the packing, and the intervention that edits each version.

Legend: T packed tokens of the cells, V versions of each, R tokens that may be changed, D width, J features
that any version edits, C cells.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.interpret.steering.design import Design
from engine.models import PackedTokens
from engine.models.interventions import Reading, changes, edited_features
from engine.models.layout import CellLayout
from engine.streaming.packing import token_positions


def repeated(tokens: PackedTokens, n_versions: int) -> tuple[PackedTokens, Tensor]:
    """Every cell `n_versions` times, one after the other, and where version v of token t lies: rows_VT.

    Versions of a cell are neighbours, so that attention runs over cells of equal length together.
    """
    layout = tokens.layout
    cells = np.repeat(np.arange(layout.n_cells), n_versions)
    source = torch.from_numpy(token_positions(layout.offsets, cells)).to(tokens.ids_T.device)
    offsets = np.concatenate([[0], np.cumsum(layout.lengths[cells])]).astype(np.int64)
    start_T = np.repeat(layout.offsets[:-1], layout.lengths)
    length_T = np.repeat(layout.lengths, layout.lengths)
    first_T = start_T * (n_versions - 1) + np.arange(layout.n_tokens)
    rows_VT = first_T + np.arange(n_versions)[:, None] * length_T
    many = PackedTokens(
        tokens.ids_T[source],
        tokens.values_T[source],
        CellLayout(offsets, layout.device),
        tokens.whole_values,
    )
    return many, torch.from_numpy(rows_VT).to(tokens.ids_T.device)


class EditGrid:
    """Intervention on a repeated batch. Afterwards `moved_VT` holds how far each token was moved (norm)."""

    def __init__(
        self,
        reading: Reading,
        design: Design,
        rows_VT: Tensor,
        tokens: PackedTokens,
        cells: npt.NDArray[np.int64],
    ) -> None:
        """tokens: of one version. cells: the cells' numbers in their store, which decide their noise."""
        self.reading, self.design, self.rows_VT = reading, design, rows_VT
        self.tokens, self.cells = tokens, cells
        self.moved_VT = torch.zeros(rows_VT.shape, device=rows_VT.device)
        self._noise_TD: Tensor | None = None
        edits = {edit.feature: edit for variant in design.variants for edit in variant.edits}
        self.features = edited_features(reading.sae, tuple(edits.values()))

    def __call__(self, x: Tensor, tokens: PackedTokens) -> Tensor:
        """x, tokens: of all versions. Before the hook they are all equal, so the first tells the codes."""
        sae, rows_R = self.reading.sae, self.reading.rows(self.tokens)
        ids_R, x_RD = self.tokens.ids_T[rows_R], x[self.rows_VT[0, rows_R]]
        read_RD = self.reading.read(x_RD, ids_R)
        features_J = torch.tensor(self.features, dtype=torch.int64, device=x.device)
        a_RJ = sae.encode_features(read_RD, features_J)
        r_RD = None
        if self.design.mode == "reconstruction":
            r_RD = sae.decode_sparse(sae.encode_sparse(read_RD), read_RD) + (x_RD - read_RD)
        result, steps = x.clone(), dict[int, Tensor]()
        for number, variant in enumerate(self.design.variants):
            if variant.kind == "base":
                continue
            if variant.norm_of is not None:
                step_RD = self._noise(x)[rows_R] * steps[variant.norm_of].norm(dim=1, keepdim=True)
            else:
                change_RJ = changes(a_RJ, self.features, variant.edits, ids_R)
                step_RD = sae.decode_change(change_RJ, features_J, read_RD)
            if variant.kind == "edit":
                steps[number] = step_RD
            at_R = self.rows_VT[number, rows_R]
            start_RD = x[at_R] if r_RD is None else r_RD
            result[at_R] = (start_RD + step_RD).to(x.dtype)
            self.moved_VT[number, rows_R] = step_RD.norm(dim=1)
        return result

    def _noise(self, x: Tensor) -> Tensor:
        """Unit vectors; a token's depends on (seed, cell, position) alone, and is the same at every dose."""
        if self._noise_TD is None:
            parts = [
                np.random.default_rng([self.design.seed, int(cell)]).standard_normal(
                    (int(length), x.shape[1]), dtype=np.float32
                )
                for cell, length in zip(self.cells, self.tokens.layout.lengths, strict=True)
            ]
            noise_TD = torch.from_numpy(np.concatenate(parts)).to(x.device)
            self._noise_TD = F.normalize(noise_TD, dim=1)
        return self._noise_TD
