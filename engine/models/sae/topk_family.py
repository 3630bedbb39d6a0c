"""TopK, BatchTopK and Matryoshka: reconstruct from the best features, let dead ones explain what is left.

Sources: Gao et al. 2024 (arXiv 2406.04093), Bussmann et al. 2024 (BatchTopK), Bussmann et al. 2025 (arXiv
2503.17547); scaled as in SAELens 6.54.
The features are chosen by h * ||W_dec||, but what is decoded is h itself: the activation h * ||W_dec|| times
the unit decoder row. The norm cancels, so no gradient passes through it.
Legend: B tokens of a batch, D input width, O output width, F features, K candidates, N active pairs,
L blocks of rows (nested prefixes, then dead features).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from engine.models.sae.dead_features import Dead, dead_reconstruction_loss
from engine.models.sae.model import SAE
from engine.models.sae.options import Knobs, ObjectiveOptions, Terms
from engine.models.sae.parallelise import FeatureShard, averaged, shared, smallest, summed
from engine.models.sae.selection import (
    Chosen,
    Encoder,
    Ranked,
    Scratch,
    best_features,
    choose_over_batch,
    won,
)
from engine.models.sae.sparse_ops import ActivePairs, decode_at, dense_wins, encode_at


def topk_terms(
    sae: SAE,
    options: ObjectiveOptions,
    knobs: Knobs,
    scratch: Scratch,
    x_BD: Tensor,
    y_BO: Tensor,
    dead_F: Tensor | None,
) -> Terms:
    """Reconstruction by the chosen features with AuxK over dead ones and, for Matryoshka, prefix losses."""
    shard = knobs.shard
    dead = _dead(sae, options, shard, x_BD, dead_F)
    live, gathered = _choose(sae, options, knobs, scratch, x_BD, None if dead and dead.dense else dead)
    prefixes = (
        options.prefixes(sae.d_sae * shard.world) if sae.config.architecture == "matryoshka_batchtopk" else ()
    )
    pairs, score_N = _blocks(sae, shard, live, gathered, len(x_BD), prefixes)
    n_live = len(live.score_N)
    before_D = shared(sae.b_dec, shard) if sae.config.apply_b_dec_to_input else None
    dense = _dense(options, sae.d_sae * shard.world, knobs.k, x_BD)
    h_N, part_LBO = _decoded(sae, dense, x_BD, before_D, pairs, score_N, n_live)
    r_LBO = summed(part_LBO, shard)
    nested_LBO = (r_LBO[: len(prefixes)].cumsum(0) if len(prefixes) > 1 else r_LBO[:1]) + sae.b_dec
    if sae.config.skip:
        nested_LBO = nested_LBO + x_BD @ sae.W_skip.T
    penalties = {}
    if len(prefixes) > 1:
        penalties["inner"] = (nested_LBO[:-1] - y_BO).pow(2).sum(-1).mean(-1).sum()
    if dead is not None:
        residual_BO = (y_BO - nested_LBO[-1]).detach()
        if dead.dense:
            error = dead_reconstruction_loss(sae, shard, scratch, x_BD, before_D, residual_BO, dead)
        else:
            error = (r_LBO[-1] - residual_BO).pow(2).sum(-1).mean()
        penalties["aux"] = _aux_weight(sae, options, shard, dead.number, y_BO, residual_BO) * error
    with torch.no_grad():
        active_N = h_N[:n_live] > 0
        fired_F = torch.zeros(sae.d_sae, dtype=torch.bool, device=x_BD.device)
        fired_F[pairs.feature_N[:n_live][active_N]] = True
        if sae.config.architecture != "topk":
            _follow_threshold(sae, options, shard, live.score_N)
        l0 = summed(active_N.sum(), shard) / len(x_BD)
    return Terms(nested_LBO[-1], penalties, fired_F, l0)


def encoder_of(sae: SAE, precision: Literal["auto", "fp32", "bf16"], device: str) -> Encoder:
    """What features are ranked by: the encoder's rows, times the decoder's norms where those count."""
    if precision == "auto":
        precision = "fp32" if device == "cpu" else "bf16"
    norm_F = decoder_norms(sae) if sae.config.rescale_acts_by_decoder_norm else None
    return Encoder.of(sae.W_enc_FD.detach(), sae.b_enc.detach(), norm_F, halved=precision == "bf16")


def decoder_norms(sae: SAE) -> Tensor:
    """||W_dec|| of each feature, kept off zero, because what is chosen by it is divided by it again."""
    norm_F: Tensor = sae.W_dec.detach().norm(dim=-1)
    return norm_F.clamp(min=1e-20)


def _dead(
    sae: SAE, options: ObjectiveOptions, shard: FeatureShard, x_BD: Tensor, dead_F: Tensor | None
) -> Dead | None:
    """At most D/2 dead features per token help; None without dead features."""
    if dead_F is None:
        return None
    columns_S = torch.nonzero(dead_F)[:, 0]
    number = widest = len(columns_S)
    if shard.world > 1:
        counts = [torch.zeros(1, dtype=torch.int64, device=x_BD.device) for _ in range(shard.world)]
        dist.all_gather(counts, torch.full_like(counts[0], number), group=shard.group)
        each = torch.cat(counts).tolist()
        number, widest = sum(each), max(each)
    if not number:
        return None
    k = min(max(sae.d_in // 2, 1), number)
    return Dead(columns_S, number, widest, k, _dense(options, number, k, x_BD))


def _dense(options: ObjectiveOptions, n_features: int, k: float, x_BD: Tensor) -> bool:
    if options.path == "auto":
        return dense_wins(n_features, k, x_BD.device.type)
    return options.path == "dense"


def _choose(
    sae: SAE, options: ObjectiveOptions, knobs: Knobs, scratch: Scratch, x_BD: Tensor, dead: Dead | None
) -> tuple[Chosen, Chosen | None]:
    """The chosen pairs, and those of dead features where they are to be gathered."""
    shard, centred_BD = knobs.shard, x_BD.detach()
    if sae.config.apply_b_dec_to_input:
        centred_BD = centred_BD - sae.b_dec.detach()
    encoder = encoder_of(sae, options.encoder_precision, x_BD.device.type)
    columns_S = dead.columns_S if dead is not None and len(dead.columns_S) else None
    k_dead = min(dead.k, len(dead.columns_S)) if dead is not None else 0
    gathered: Ranked | None
    if sae.config.architecture == "topk":
        k = int(knobs.k)
        ranked, gathered = best_features(centred_BD, encoder, min(k, sae.d_sae), scratch, columns_S, k_dead)
        live = won(ranked, k, shard)
    else:
        n_chosen = int(knobs.k * len(x_BD) * shard.batch_world)
        live = choose_over_batch(centred_BD, encoder, n_chosen, knobs.k, scratch, shard)
        gathered = None
        if columns_S is not None:
            local, _ = best_features(centred_BD, encoder.part(columns_S), k_dead, scratch)
            gathered = Ranked(local.score_BK, columns_S[local.index_BK])
    if dead is None:
        return live, None
    if gathered is None:  # others have dead features
        none_BK = live.token_N.new_zeros(len(x_BD), 0)
        gathered = Ranked(none_BK.to(x_BD.dtype), none_BK)
    return live, won(gathered, dead.k, shard)


def _blocks(
    sae: SAE,
    shard: FeatureShard,
    live: Chosen,
    dead: Chosen | None,
    n_tokens: int,
    prefixes: tuple[int, ...],
) -> tuple[ActivePairs, Tensor]:
    """All pairs as blocks of rows (one per nested prefix, then the dead features), and their h."""
    row_N, feature_N, score_N = live
    n_blocks = max(len(prefixes), 1)
    if len(prefixes) > 1:
        bounds = torch.tensor(prefixes, device=feature_N.device)
        place_N = feature_N + shard.rank * sae.d_sae  # in the whole autoencoder
        row_N = row_N + n_tokens * torch.bucketize(place_N, bounds, right=True)
        row_N, order_N = torch.sort(row_N, stable=True)
        feature_N, score_N = feature_N[order_N], score_N[order_N]
    if dead is not None:
        row_N = torch.cat([row_N, n_blocks * n_tokens + dead.token_N])
        feature_N = torch.cat([feature_N, dead.feature_N])
        score_N = torch.cat([score_N, dead.score_N])
        n_blocks += 1
    if sae.config.rescale_acts_by_decoder_norm:
        score_N = score_N / decoder_norms(sae)[feature_N]
    return ActivePairs(row_N, feature_N, n_blocks * n_tokens, n_tokens, sae.d_sae), score_N


def _decoded(
    sae: SAE,
    dense: bool,
    x_BD: Tensor,
    before_D: Tensor | None,
    pairs: ActivePairs,
    score_N: Tensor,
    n_live: int,
) -> tuple[Tensor, Tensor]:
    """h of the pairs and what each block of rows adds up to, r_LBO, differentiable either way."""
    if dense:
        h_BF = (x_BD if before_D is None else x_BD - before_D) @ sae.W_enc + sae.b_enc
        h_N = h_BF[pairs.token_N, pairs.feature_N]
        a_RF = h_N.new_zeros(pairs.n_rows, sae.d_sae)
        r_RO = a_RF.index_put((pairs.row_N, pairs.feature_N), _rectified(h_N, n_live)) @ sae.W_dec
    else:
        h_N = encode_at(x_BD, before_D, sae.W_enc_FD, sae.b_enc, score_N, pairs)
        r_RO = decode_at(_rectified(h_N, n_live), sae.W_dec, pairs)
    return h_N, r_RO.view(-1, pairs.n_tokens, sae.W_dec.shape[1])


def _rectified(h_N: Tensor, n_live: int) -> Tensor:
    """Chosen features are rectified, dead ones learn from negative values too."""
    return torch.cat([h_N[:n_live].relu(), h_N[n_live:]]) if n_live < len(h_N) else h_N.relu()


def _aux_weight(
    sae: SAE,
    options: ObjectiveOptions,
    shard: FeatureShard,
    n_dead: int,
    y_BO: Tensor,
    residual_BO: Tensor,
) -> Tensor | float:
    """At most D/2 dead features help; with fewer the loss counts less."""
    weight = options.aux_coefficient * min(n_dead / max(sae.d_in // 2, 1), 1.0)
    if not options.aux_relative:
        return weight
    mean_O = averaged(y_BO.mean(0), shard)
    variance = averaged((y_BO - mean_O).pow(2).sum(-1).mean().detach(), shard)
    unexplained = averaged(residual_BO.pow(2).sum(-1).mean(), shard)
    return weight * variance / unexplained.clamp(min=1e-30)


def _follow_threshold(sae: SAE, options: ObjectiveOptions, shard: FeatureShard, score_N: Tensor) -> None:
    """Moves the running threshold towards the smallest chosen score; the first batch sets it.

    Started from 0 instead, it would need 460 steps to come within a percent (specs/sae.md section 2).
    """
    positive_N = score_N[score_N > 0]
    least = smallest(torch.cat([positive_N, score_N.new_full((1,), torch.inf)]).min().double(), shard)
    started = sae.topk_threshold > 0
    followed = sae.topk_threshold + options.threshold_rate * (least - sae.topk_threshold)
    found = torch.where(started, followed, least)
    sae.topk_threshold.copy_(torch.where(least.isinf(), sae.topk_threshold, found))
