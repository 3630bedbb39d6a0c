"""The vectors of an index in the memory of a GPU: many queries by one matrix product, all rows compared.

Plain PyTorch, so the same lines run on a CPU, where `Searcher` is the better choice. A GPU reads a million
rows of 512 float16 numbers in less than a millisecond, so there is no shortlist, and nothing to lose by one.

Shape legend: Q queries, N rows, D width, K results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.retrieval.found import Found, ranked
from engine.retrieval.search import Searcher
from storage.errors import InputError
from storage.index import Segment, VectorIndex

Float32 = npt.NDArray[np.float32]

# Rows and queries of one product: 256 MiB of float16 scores at most.
_ROWS, _QUERIES = 1 << 19, 256
# Rows beyond the K best by float16 that are scored exactly: as many as may be near enough to be among them.
_SPARE = 64


class DeviceSearcher:
    """Searches one version of an index on a torch device; holds its vectors there (2 D bytes a row)."""

    def __init__(self, index: VectorIndex, device: str | torch.device = "cuda") -> None:
        self.index, self.device = index, torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise InputError("--device cuda: this machine has no GPU that torch can use; leave it out")
        self._searcher = Searcher(index)
        self._vectors = [torch.from_numpy(s.arrays.vectors).to(self.device) for s in index.segments]

    def search(self, queries_QD: Float32, k: int = 10, *, where: str | None = None) -> list[Found]:
        """The k best cells by cosine for each query, among those that pass `where`: what `Searcher.search`
        with `how="exact"` answers one by one. Raises InputError as that does.
        """
        unit_QD = np.stack([self._searcher.unit(query_D) for query_D in queries_QD])
        masks = self._searcher.passing(where)
        n_passing = sum(
            segment.n_rows if mask is None else int(mask.sum())
            for segment, mask in zip(self.index.segments, masks, strict=True)
        )
        on_device = [None if mask is None else torch.from_numpy(mask).to(self.device) for mask in masks]
        answers: list[tuple[Float32, npt.NDArray[np.int64]]] = []
        for start in range(0, len(unit_QD), _QUERIES):
            answers += self._batch(torch.from_numpy(unit_QD[start : start + _QUERIES]), k, on_device)
        ways = {"device": len(self.index.segments)}
        return [Found(score, cell, n_passing, self.index.version, ways) for score, cell in answers]

    def scores(self, query_D: Float32) -> Float32:
        """Cosine of every row in the order of `index.ids`, as `Searcher.scores`."""
        q_D = torch.from_numpy(self._searcher.unit(query_D)).to(self.device).half()
        return torch.cat([rows_ND @ q_D for rows_ND in self._vectors]).float().cpu().numpy()

    def _batch(
        self, q_QD: Tensor, k: int, masks: Sequence[Tensor | None]
    ) -> Iterator[tuple[Float32, npt.NDArray[np.int64]]]:
        q_QD = q_QD.to(self.device)
        parts = [
            self._best(segment, rows_ND, q_QD, k, mask_N)
            for segment, rows_ND, mask_N in zip(self.index.segments, self._vectors, masks, strict=True)
        ]
        for query in range(len(q_QD)):
            scores = [score_QK[query] for score_QK, _ in parts]
            cells = [cell_QK[query] for _, cell_QK in parts]
            allowed = [np.isfinite(score) for score in scores]
            yield ranked(
                [score[ok] for score, ok in zip(scores, allowed, strict=True)],
                [cell[ok] for cell, ok in zip(cells, allowed, strict=True)],
                k,
            )

    def _best(
        self, segment: Segment, rows_ND: Tensor, q_QD: Tensor, k: int, mask_N: Tensor | None
    ) -> tuple[Float32, npt.NDArray[np.int64]]:
        """Exact scores and cells of the rows of a segment that the best are among, `[Q, K]`; -inf for rows
        that may not be found.
        """
        found: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(rows_ND), _ROWS):
            some_ND = rows_ND[start : start + _ROWS]
            score_QN = q_QD.half() @ some_ND.T
            if mask_N is not None:
                score_QN = score_QN.masked_fill(~mask_N[start : start + _ROWS], -torch.inf)
            fast_QK, at_QK = score_QN.topk(min(k + _SPARE, len(some_ND)), dim=1)
            exact_QK = torch.einsum("qkd,qd->qk", some_ND[at_QK].float(), q_QD)
            found.append((exact_QK.masked_fill(fast_QK == -torch.inf, -torch.inf), at_QK + start))
        score_QK = torch.cat([score for score, _ in found], dim=1).cpu().numpy()
        row_QK = torch.cat([row for _, row in found], dim=1).cpu().numpy()
        return score_QK, segment.arrays.ids[row_QK]
