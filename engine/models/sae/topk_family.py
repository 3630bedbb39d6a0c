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
from torch import Tensor

from engine.models.sae.dead_features import dead_reconstruction_loss
from engine.models.sae.model import SAE
from engine.models.sae.options import Knobs, ObjectiveOptions, Terms
from engine.models.sae.selection import Encoder, Ranked, Scratch, best_features
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
    n_dead = 0 if dead_F is None else int(dead_F.sum())
    dead_C = torch.nonzero(dead_F)[:, 0] if dead_F is not None and n_dead else None
    k_dead = min(max(sae.d_in // 2, 1), n_dead)
    dead_dense = _dense(options, n_dead, k_dead, x_BD)
    live, dead = _choose(sae, options, knobs, scratch, x_BD, None if dead_dense else dead_C, k_dead)
    prefixes = options.prefixes(sae.d_sae) if sae.config.architecture == "matryoshka_batchtopk" else ()
    pairs, score_N = _blocks(sae, live, dead, len(x_BD), prefixes)
    before_D = sae.b_dec if sae.config.apply_b_dec_to_input else None
    n_live = live[0].numel()
    if _dense(options, sae.d_sae, knobs.k, x_BD):
        h_N = _dense_pre_activations(sae, x_BD, before_D)[pairs.token_N, pairs.feature_N]
        r_LBO = _dense_decode(sae, _rectified(h_N, n_live), pairs)
    else:
        h_N = encode_at(x_BD, before_D, sae.W_enc_FD, sae.b_enc, score_N, pairs)
        r_LBO = decode_at(_rectified(h_N, n_live), sae.W_dec, pairs).view(-1, *y_BO.shape)
    nested_LBO = r_LBO[: max(len(prefixes), 1)].cumsum(0) + sae.b_dec
    if sae.config.skip:
        nested_LBO = nested_LBO + x_BD @ sae.W_skip.T
    residual_BO = (y_BO - nested_LBO[-1]).detach()
    penalties = {}
    if len(prefixes) > 1:
        penalties["inner"] = (nested_LBO[:-1] - y_BO).pow(2).sum(-1).mean(-1).sum()
    if dead_C is not None:
        if dead_dense:
            error = dead_reconstruction_loss(sae, scratch, x_BD, residual_BO, dead_C, k_dead)
        else:
            error = (r_LBO[-1] - residual_BO).pow(2).sum(-1).mean()
        penalties["aux"] = _aux_weight(sae, options, n_dead, y_BO, residual_BO) * error
    with torch.no_grad():
        active_N = h_N[:n_live] > 0
        fired_F = torch.zeros(sae.d_sae, dtype=torch.bool, device=x_BD.device)
        fired_F[pairs.feature_N[:n_live][active_N]] = True
        if sae.config.architecture != "topk":
            _follow_threshold(sae, options, live[2][live[2] > 0])
        l0 = active_N.sum() / len(x_BD)
    return Terms(nested_LBO[-1], penalties, fired_F, l0)


def _dense(options: ObjectiveOptions, n_features: int, k: float, x_BD: Tensor) -> bool:
    if options.path == "auto":
        return dense_wins(n_features, k, x_BD.device.type)
    return options.path == "dense"


def encoder_of(sae: SAE, precision: Literal["auto", "fp32", "bf16"], device: str) -> Encoder:
    """What features are ranked by: the encoder's rows, times the decoder's norms where those count."""
    if precision == "auto":
        precision = "fp32" if device == "cpu" else "bf16"
    rows_FD, bias_F = sae.W_enc_FD.detach(), sae.b_enc.detach()
    if sae.config.rescale_acts_by_decoder_norm:
        # Scaling the weights costs D * F, scaling the products B * F.
        norm_F = decoder_norms(sae)
        rows_FD, bias_F = rows_FD * norm_F[:, None], bias_F * norm_F
    return Encoder.of(rows_FD, bias_F, precision)


def decoder_norms(sae: SAE) -> Tensor:
    """||W_dec|| of each feature, kept off zero, because what is chosen by it is divided by it again."""
    norm_F: Tensor = sae.W_dec.detach().norm(dim=-1)
    return norm_F.clamp(min=1e-20)


@torch.no_grad()
def choose_over_batch(
    x_BD: Tensor, encoder: Encoder, n_chosen: int, k: float, scratch: Scratch
) -> tuple[Tensor, Tensor, Tensor]:
    """The n_chosen largest positive scores of a whole batch: token_N (ascending), feature_N, score_N.

    Exact without the scores of all features: each token offers its 2k best; tokens whose every offer was
    chosen may hold more and are asked again for twice as many. k is the average number per token.
    """
    n_features, n_tokens = len(encoder.rows_FD), len(x_BD)
    offers = min(n_features, max(1, int(2 * k)))
    waiting_B = torch.arange(n_tokens, device=x_BD.device)
    token_N = feature_N = torch.empty(0, dtype=torch.int64, device=x_BD.device)
    score_N = x_BD.new_empty(0)
    while True:
        ranked, _ = best_features(x_BD[waiting_B], encoder, offers, scratch)
        settled_N = ~torch.isin(token_N, waiting_B)
        token_N = torch.cat([token_N[settled_N], waiting_B.repeat_interleave(offers)])
        feature_N = torch.cat([feature_N[settled_N], ranked.index_BK.flatten()])
        score_N = torch.cat([score_N[settled_N], ranked.score_BK.flatten()])
        best_N = torch.topk(score_N, min(n_chosen, len(score_N)), sorted=False).indices
        best_N = best_N[score_N[best_N] > 0]
        chosen_B = torch.bincount(token_N[best_N], minlength=n_tokens)
        waiting_B = waiting_B[chosen_B[waiting_B] == offers]
        if offers == n_features or not len(waiting_B):
            break
        offers = min(n_features, 2 * offers)
    best_N = best_N[torch.argsort(token_N[best_N], stable=True)]
    return token_N[best_N], feature_N[best_N], score_N[best_N]


def _choose(
    sae: SAE,
    options: ObjectiveOptions,
    knobs: Knobs,
    scratch: Scratch,
    x_BD: Tensor,
    dead_C: Tensor | None,
    k_dead: int,
) -> tuple[tuple[Tensor, Tensor, Tensor], Ranked | None]:
    """Token, feature and score of the chosen pairs by token, and the best dead features of each token."""
    centred_BD = x_BD.detach()
    if sae.config.apply_b_dec_to_input:
        centred_BD = centred_BD - sae.b_dec.detach()
    encoder = encoder_of(sae, options.encoder_precision, x_BD.device.type)
    if sae.config.architecture == "topk":
        k = int(knobs.k)
        ranked, dead = best_features(centred_BD, encoder, k, scratch, dead_C, k_dead)
        token_N = torch.arange(len(x_BD), device=x_BD.device).repeat_interleave(k)
        return (token_N, ranked.index_BK.flatten(), ranked.score_BK.flatten()), dead
    live = choose_over_batch(centred_BD, encoder, int(knobs.k * len(x_BD)), knobs.k, scratch)
    dead = None
    if dead_C is not None:
        part = Encoder.of(encoder.rows_FD[dead_C], encoder.bias_F[dead_C], "fp32")
        local, _ = best_features(centred_BD, part, k_dead, scratch)
        dead = Ranked(local.score_BK, dead_C[local.index_BK])
    return live, dead


def _blocks(
    sae: SAE,
    live: tuple[Tensor, Tensor, Tensor],
    dead: Ranked | None,
    n_tokens: int,
    prefixes: tuple[int, ...],
) -> tuple[ActivePairs, Tensor]:
    """All pairs as blocks of rows (one per nested prefix, then the dead features), and their h."""
    row_N, feature_N, score_N = live
    n_blocks = max(len(prefixes), 1)
    if len(prefixes) > 1:
        bounds = torch.tensor(prefixes, device=feature_N.device)
        row_N = row_N + n_tokens * torch.bucketize(feature_N, bounds, right=True)
        row_N, order_N = torch.sort(row_N, stable=True)
        feature_N, score_N = feature_N[order_N], score_N[order_N]
    if dead is not None:
        k_dead = dead.index_BK.shape[1]
        dead_row_N = torch.arange(n_blocks * n_tokens, (n_blocks + 1) * n_tokens, device=row_N.device)
        row_N = torch.cat([row_N, dead_row_N.repeat_interleave(k_dead)])
        feature_N = torch.cat([feature_N, dead.index_BK.flatten()])
        score_N = torch.cat([score_N, dead.score_BK.flatten()])
        n_blocks += 1
    if sae.config.rescale_acts_by_decoder_norm:
        score_N = score_N / decoder_norms(sae)[feature_N]
    return ActivePairs(row_N, feature_N, n_blocks * n_tokens, n_tokens, sae.d_sae), score_N


def _rectified(h_N: Tensor, n_live: int) -> Tensor:
    """Chosen features are rectified, dead ones learn from negative values too."""
    return torch.cat([h_N[:n_live].relu(), h_N[n_live:]]) if n_live < len(h_N) else h_N.relu()


def _dense_pre_activations(sae: SAE, x_BD: Tensor, before_D: Tensor | None) -> Tensor:
    return (x_BD if before_D is None else x_BD - before_D) @ sae.W_enc + sae.b_enc


def _dense_decode(sae: SAE, value_N: Tensor, pairs: ActivePairs) -> Tensor:
    a_RF = value_N.new_zeros(pairs.n_rows, sae.d_sae)
    a_RF = a_RF.index_put((pairs.row_N, pairs.feature_N), value_N)
    return (a_RF @ sae.W_dec).view(-1, pairs.n_tokens, sae.W_dec.shape[1])


def _aux_weight(
    sae: SAE, options: ObjectiveOptions, n_dead: int, y_BO: Tensor, residual_BO: Tensor
) -> Tensor | float:
    """At most D/2 dead features help; with fewer the loss counts less."""
    weight = options.aux_coefficient * min(n_dead / max(sae.d_in // 2, 1), 1.0)
    if not options.aux_relative:
        return weight
    variance = (y_BO - y_BO.mean(0)).pow(2).sum(-1).mean().detach()
    return weight * variance / residual_BO.pow(2).sum(-1).mean().clamp(min=1e-30)


def _follow_threshold(sae: SAE, options: ObjectiveOptions, score_N: Tensor) -> None:
    """Moves the running threshold towards the smallest chosen score; the first batch sets it.

    Started from 0 instead, it would need 460 steps to come within a percent (specs/sae.md section 2).
    """
    if not len(score_N):
        return
    smallest = score_N.min().double()
    started = sae.topk_threshold > 0
    followed = sae.topk_threshold + options.threshold_rate * (smallest - sae.topk_threshold)
    sae.topk_threshold.copy_(torch.where(started, followed, smallest))
