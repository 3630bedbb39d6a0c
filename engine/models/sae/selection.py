"""Which features are active: encoder products in chunks of tokens, exact top-k, fp32 rescoring of bf16.

Legend: B tokens of a batch, D input width, F features, K active features, C columns of F looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.models.sae.parallelise import ALONE, FeatureShard, best_of_all, best_of_group, largest
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
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def __reduce__(self) -> tuple[type[Scratch], tuple[()]]:
        return Scratch, ()  # copies and pickles start empty

    def chunks(
        self, x_BD: Tensor, n_features: int, dtype: torch.dtype, widest: int | None = None
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(first token, tokens, room [tokens, F] for their products) one chunk after another.

        widest: features that the size of chunks depends on, where processes must agree on it.
        """
        room = CHUNK_BYTES.get(x_BD.device.type, CHUNK_BYTES["cuda"])
        rows = min(len(x_BD), max(MIN_ROWS, room // ((widest or n_features) * dtype.itemsize)))
        needed = rows * n_features * dtype.itemsize
        if self._buffer.numel() < needed or self._buffer.device != x_BD.device:
            self._buffer = torch.empty(needed, dtype=torch.uint8, device=x_BD.device)
        buffer = self._buffer[:needed].view(dtype)
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
    """Scores of all features are (x @ rows_FD.T) * norm_F + bias_F; matrix_FD is what is multiplied first.

    matrix_FD: the rows times the norms (scaling the weights costs D * F, scaling the products B * F), in bf16
    where features are ranked in bf16 and the best k + 32 scored again from the rows in fp32.
    """

    rows_FD: Tensor
    norm_F: Tensor | None
    bias_F: Tensor
    matrix_FD: Tensor

    @property
    def halved(self) -> bool:
        return self.matrix_FD.dtype != self.rows_FD.dtype

    @classmethod
    def of(cls, rows_FD: Tensor, bias_F: Tensor, norm_F: Tensor | None, *, halved: bool) -> Encoder:
        """norm_F: what features are weighed by when the k are chosen; None for nothing."""
        matrix_FD = rows_FD
        if halved:
            matrix_FD = torch.empty_like(rows_FD, dtype=torch.bfloat16)
        if norm_F is not None:
            matrix_FD = torch.mul(rows_FD, norm_F[:, None], out=matrix_FD if halved else None)
            bias_F = bias_F * norm_F
        elif halved:
            matrix_FD.copy_(rows_FD)
        return cls(rows_FD, norm_F, bias_F, matrix_FD)

    def part(self, columns_C: Tensor) -> Encoder:
        """The encoder of some features only."""
        norm_C = None if self.norm_F is None else self.norm_F[columns_C]
        return Encoder(self.rows_FD[columns_C], norm_C, self.bias_F[columns_C], self.matrix_FD[columns_C])

    def rescored(self, x_BD: Tensor, index_BK: Tensor) -> Tensor:
        """Scores of given features from the rows themselves, without a product over all features."""
        n_tokens, k = index_BK.shape
        token_N = torch.arange(n_tokens, device=x_BD.device).repeat_interleave(k)
        offsets_B1 = torch.arange(n_tokens + 1, device=x_BD.device) * k
        product_N = sampled_products(x_BD, token_N, offsets_B1, index_BK.flatten(), self.rows_FD)
        product_BK = product_N.view(n_tokens, k)
        return (product_BK if self.norm_F is None else product_BK * self.norm_F[index_BK]) + self.bias_F[
            index_BK
        ]


class Chosen(NamedTuple):
    """Active pairs of a batch: token_N (ascending), feature_N and what they were chosen by, score_N."""

    token_N: Tensor
    feature_N: Tensor
    score_N: Tensor


@torch.no_grad()
def best_features(
    x_BD: Tensor, encoder: Encoder, k: int, scratch: Scratch, dead_C: Tensor | None = None, k_dead: int = 0
) -> tuple[Ranked, Ranked | None]:
    """The k features of highest score of each token, and the k_dead highest among the columns dead_C.

    Never holds scores of more than a chunk of tokens. Exact in fp32; in bf16 the support is exact unless a
    feature of the k best ranks behind more than 32 others in bf16.
    """
    live, dead = [], []
    matrix_FD = encoder.matrix_FD
    bias_F = encoder.bias_F.to(matrix_FD.dtype)
    for _, x_CD, h_CF in scratch.chunks(x_BD, len(matrix_FD), matrix_FD.dtype):
        torch.addmm(bias_F, x_CD.to(matrix_FD.dtype), matrix_FD.T, out=h_CF)
        live.append(_best(x_CD, h_CF, encoder, k, None))
        if dead_C is not None:
            dead.append(_best(x_CD, h_CF.index_select(1, dead_C), encoder, k_dead, dead_C))
    return _joined(live), _joined(dead) if dead_C is not None else None


def won(ranked: Ranked, k: int, shard: FeatureShard) -> Chosen:
    """Of each token's best features in this process those that are among the k best of the group."""
    score_BK, index_BK = ranked
    n_tokens, n_own = score_BK.shape
    if shard.world == 1:
        token_N = torch.arange(n_tokens, device=score_BK.device).repeat_interleave(n_own)
        return Chosen(token_N, index_BK.flatten(), score_BK.flatten())
    padded_BK = F.pad(score_BK, (0, k - n_own), value=-torch.inf)
    kept_BK = best_of_group(padded_BK, k, shard)[:, :n_own]
    return Chosen(torch.nonzero(kept_BK)[:, 0], index_BK[kept_BK], score_BK[kept_BK])


@torch.no_grad()
def exact_share(x_BD: Tensor, encoder: Encoder, k: int, scratch: Scratch) -> float:
    """Share of tokens whose k features are those of fp32: the check of bf16 ranking on tokens of a run."""
    full = Encoder.of(encoder.rows_FD, encoder.bias_F, None, halved=False)
    if encoder.norm_F is not None:
        full = full._replace(matrix_FD=encoder.rows_FD * encoder.norm_F[:, None])
    ranked, _ = best_features(x_BD, encoder, k, scratch)
    expected, _ = best_features(x_BD, full, k, scratch)
    same_B = (ranked.index_BK.sort(dim=-1).values == expected.index_BK.sort(dim=-1).values).all(-1)
    return float(same_B.float().mean())


@torch.no_grad()
def choose_over_batch(
    x_BD: Tensor,
    encoder: Encoder,
    n_chosen: int,
    k: float,
    scratch: Scratch,
    shard: FeatureShard = ALONE,
) -> Chosen:
    """The n_chosen largest positive scores of a whole batch, which is that of all processes of the shard.

    Exact without the scores of all features: each token offers its 2k best; tokens whose every offer was
    chosen may hold more and are asked again for twice as many. k is the average number per token.
    """
    n_features, n_tokens = len(encoder.rows_FD), len(x_BD)
    offers = min(n_features, max(1, int(2 * k)))
    waiting_B = torch.arange(n_tokens, device=x_BD.device)
    token_N = feature_N = torch.empty(0, dtype=torch.int64, device=x_BD.device)
    score_N = x_BD.new_empty(0)
    while True:
        if len(waiting_B):
            ranked, _ = best_features(x_BD[waiting_B], encoder, offers, scratch)
            settled_N = ~torch.isin(token_N, waiting_B)
            token_N = torch.cat([token_N[settled_N], waiting_B.repeat_interleave(offers)])
            feature_N = torch.cat([feature_N[settled_N], ranked.index_BK.flatten()])
            score_N = torch.cat([score_N[settled_N], ranked.score_BK.flatten()])
        best_N = _best_places(score_N, n_chosen, shard)
        chosen_B = torch.bincount(token_N[best_N], minlength=n_tokens)
        waiting_B = waiting_B[chosen_B[waiting_B] == offers]
        if offers == n_features or not _any_waits(waiting_B, shard):
            break
        offers = min(n_features, 2 * offers)
    best_N = best_N[torch.argsort(token_N[best_N], stable=True)]
    return Chosen(token_N[best_N], feature_N[best_N], score_N[best_N])


def _best_places(score_N: Tensor, n_chosen: int, shard: FeatureShard) -> Tensor:
    """Which scores are positive and among the n_chosen best of all processes."""
    if shard.alone:
        best_N = torch.topk(score_N, min(n_chosen, len(score_N)), sorted=False).indices
    else:
        best_N = torch.nonzero(best_of_all(score_N, n_chosen))[:, 0]
    return best_N[score_N[best_N] > 0]


def _any_waits(waiting_B: Tensor, shard: FeatureShard) -> bool:
    waits = len(waiting_B) > 0
    return waits if shard.alone else bool(largest(torch.tensor(int(waits), device=waiting_B.device)))


def _best(x_BD: Tensor, h_BC: Tensor, encoder: Encoder, k: int, columns_C: Tensor | None) -> Ranked:
    spare = SPARE_CANDIDATES if encoder.halved else 0
    score_BK, index_BK = exact_top(h_BC, min(k + spare, h_BC.shape[-1]))
    if columns_C is not None:
        index_BK = columns_C[index_BK]
    if not encoder.halved:
        return Ranked(score_BK, index_BK)
    kept_BK, place_BK = encoder.rescored(x_BD, index_BK).topk(k, dim=-1, sorted=False)
    return Ranked(kept_BK, index_BK.gather(-1, place_BK))


def _joined(parts: list[Ranked]) -> Ranked:
    return Ranked(torch.cat([part.score_BK for part in parts]), torch.cat([part.index_BK for part in parts]))
