"""Which features are active: encoder products in chunks of tokens, exact top-k, fp32 rescoring of bf16.

Legend: B tokens of a batch, D input width, F features, K active features, C columns of F looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from engine.models.sae.sparse_ops import sampled_products

# Bytes of encoder products alive at once. On a CPU more than this only costs page faults; on a GPU the
# product needs many rows to reach its peak (specs/sae.md section 4).
CHUNK_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}
# Below this many rows the encoder's weights are read too often to keep the product at its peak.
MIN_ROWS = 256
# Candidates beyond k that are scored again in fp32 after a bf16 product (specs/sae.md section 4).
SPARE_CANDIDATES = 32
# Elements per group of the two-stage top-k; 16 measured best on a CPU at 16,384 features.
GROUP = 16


class SparseCodes(NamedTuple):
    """Active features of tokens. index_BK int64, value_BK float32 >= 0, largest first.

    Where fewer than K features fire, the rest has value 0 (and index 0): skip it or let it add nothing.
    """

    index_BK: Tensor
    value_BK: Tensor


class Ranked(NamedTuple):
    """Best features of each token by score (not rectified), in no order: score_BK float32, index_BK int64."""

    score_BK: Tensor
    index_BK: Tensor


class Scratch:
    """The one buffer that encoder products of all chunks and steps are written to."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0)

    def __reduce__(self) -> tuple[type[Scratch], tuple[()]]:
        return Scratch, ()  # copies and pickles start empty

    def chunks(
        self, x_BD: Tensor, n_features: int, dtype: torch.dtype
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(first token, tokens, room [tokens, F] for their products) one chunk after another."""
        room = CHUNK_BYTES.get(x_BD.device.type, CHUNK_BYTES["cuda"])
        rows = min(len(x_BD), max(MIN_ROWS, room // (n_features * dtype.itemsize)))
        buffer = self._buffer
        if buffer.numel() < rows * n_features or buffer.dtype != dtype or buffer.device != x_BD.device:
            self._buffer = buffer = torch.empty(rows * n_features, dtype=dtype, device=x_BD.device)
        for start in range(0, len(x_BD), max(rows, 1)):
            x_CD = x_BD[start : start + rows]
            yield start, x_CD, buffer[: len(x_CD) * n_features].view(len(x_CD), n_features)


def exact_top(h_BF: Tensor, k: int) -> Ranked:
    """The k largest of each row.

    On a CPU wide rows go in two stages: the k best groups by their maximum hold k largest elements, because
    every other element is at most the maximum of its group, and k groups have larger ones.
    """
    n_features = h_BF.shape[-1]
    if h_BF.device.type != "cpu" or n_features % GROUP or n_features < 4 * GROUP * k:
        score_BK, index_BK = torch.topk(h_BF, k, dim=-1, sorted=False)
        return Ranked(score_BK, index_BK)
    n_groups = n_features // GROUP
    # Members of a group lie n_groups apart, so that the maximum runs along contiguous memory.
    best_BK = h_BF.view(*h_BF.shape[:-1], GROUP, n_groups).amax(-2).topk(k, sorted=False).indices
    members = torch.arange(0, n_features, n_groups, device=h_BF.device)
    candidate_BC = (best_BK[:, None, :] + members[:, None]).flatten(1)
    score_BK, place_BK = h_BF.gather(-1, candidate_BC).topk(k, dim=-1, sorted=False)
    return Ranked(score_BK, candidate_BC.gather(-1, place_BK))


class Encoder(NamedTuple):
    """Scores of all features are x @ rows_FD.T + bias_F. halved_FD: the rows in bf16, to rank with first."""

    rows_FD: Tensor
    bias_F: Tensor
    halved_FD: Tensor | None

    @classmethod
    def of(cls, rows_FD: Tensor, bias_F: Tensor, precision: str) -> Encoder:
        """precision "fp32", or "bf16" to rank in bf16 and score the best k + 32 again in fp32."""
        return cls(rows_FD, bias_F, rows_FD.bfloat16() if precision == "bf16" else None)


@torch.no_grad()
def best_features(
    x_BD: Tensor, encoder: Encoder, k: int, scratch: Scratch, dead_C: Tensor | None = None, k_dead: int = 0
) -> tuple[Ranked, Ranked | None]:
    """The k features of highest score of each token, and the k_dead highest among the columns dead_C.

    Never holds scores of more than a chunk of tokens. Exact in fp32; in bf16 the support is exact unless a
    feature of the k best ranks behind more than 32 others in bf16.
    """
    live, dead = [], []
    matrix_FD = encoder.rows_FD if encoder.halved_FD is None else encoder.halved_FD
    bias_F = encoder.bias_F.to(matrix_FD.dtype)
    for _, x_CD, h_CF in scratch.chunks(x_BD, len(matrix_FD), matrix_FD.dtype):
        torch.addmm(bias_F, x_CD.to(matrix_FD.dtype), matrix_FD.T, out=h_CF)
        live.append(_best(x_CD, h_CF, encoder, k, None))
        if dead_C is not None:
            dead.append(_best(x_CD, h_CF.index_select(1, dead_C), encoder, k_dead, dead_C))
    return _joined(live), _joined(dead) if dead_C is not None else None


def _best(x_BD: Tensor, h_BC: Tensor, encoder: Encoder, k: int, columns_C: Tensor | None) -> Ranked:
    spare = 0 if encoder.halved_FD is None else SPARE_CANDIDATES
    score_BK, index_BK = exact_top(h_BC, min(k + spare, h_BC.shape[-1]))
    if columns_C is not None:
        index_BK = columns_C[index_BK]
    if encoder.halved_FD is None:
        return Ranked(score_BK, index_BK)
    exact_BK = rescored(x_BD, encoder, index_BK)
    kept_BK, place_BK = exact_BK.topk(k, dim=-1, sorted=False)
    return Ranked(kept_BK, index_BK.gather(-1, place_BK))


def rescored(x_BD: Tensor, encoder: Encoder, index_BK: Tensor) -> Tensor:
    """Scores of given features in fp32, without a product over all features."""
    n_tokens, k = index_BK.shape
    token_N = torch.arange(n_tokens, device=x_BD.device).repeat_interleave(k)
    offsets_B1 = torch.arange(0, n_tokens * k + 1, k, device=x_BD.device)
    product_N = sampled_products(x_BD, token_N, offsets_B1, index_BK.flatten(), encoder.rows_FD)
    return product_N.view(n_tokens, k) + encoder.bias_F[index_BK]


def _joined(parts: list[Ranked]) -> Ranked:
    return Ranked(torch.cat([part.score_BK for part in parts]), torch.cat([part.index_BK for part in parts]))
