"""Choosing features: exact top-k, bf16 ranking with fp32 scores, one choice over a whole batch."""

from copy import deepcopy

import pytest
import torch

from engine.models import sae
from engine.models.sae import selection
from engine.models.sae.selection import Encoder, Scratch, best_features, choose_over_batch, exact_top


def random_encoder(n_features: int, *, halved: bool = False, weighed: bool = True) -> Encoder:
    generator = torch.Generator().manual_seed(0)
    rows_FD = torch.randn(n_features, 32, generator=generator)
    bias_F, norm_F = 0.1 * torch.randn(n_features, generator=generator), torch.linspace(0.5, 2, n_features)
    return Encoder.of(rows_FD, bias_F, norm_F if weighed else None, halved=halved)


def scores(x_BD: torch.Tensor, encoder: Encoder) -> torch.Tensor:
    h_BF = x_BD @ encoder.rows_FD.T
    return (h_BF if encoder.norm_F is None else h_BF * encoder.norm_F) + encoder.bias_F


@pytest.mark.parametrize("n_features", [1024, 1000])
@pytest.mark.parametrize("tied", [False, True])
def test_two_stages_find_what_one_does(n_features: int, tied: bool) -> None:
    h_BF = torch.randn(50, n_features, generator=torch.Generator().manual_seed(0))
    if tied:
        h_BF = h_BF.round()
    found = exact_top(h_BF, 8)
    expected = h_BF.topk(8, dim=1).values
    assert torch.equal(found.score_BK.sort(dim=1, descending=True).values, expected)
    assert torch.equal(h_BF.gather(1, found.index_BK), found.score_BK)
    assert all(len(set(row)) == 8 for row in found.index_BK.tolist())


@pytest.mark.parametrize("weighed", [False, True])
def test_bf16_ranking_keeps_the_support_and_fp32_scores(weighed: bool) -> None:
    x_BD = torch.randn(300, 32, generator=torch.Generator().manual_seed(1))
    full, halved = (random_encoder(4096, halved=h, weighed=weighed) for h in (False, True))
    expected, _ = best_features(x_BD, full, 16, Scratch())
    found, _ = best_features(x_BD, halved, 16, Scratch())
    order, other = found.index_BK.argsort(dim=1), expected.index_BK.argsort(dim=1)
    assert torch.equal(found.index_BK.gather(1, order), expected.index_BK.gather(1, other))
    torch.testing.assert_close(found.score_BK.gather(1, order), expected.score_BK.gather(1, other))
    assert selection.exact_share(x_BD, halved, 16, Scratch()) == 1.0
    # Without the second look the support would not be that of fp32.
    h_BF = x_BD.bfloat16() @ halved.matrix_FD.T + halved.bias_F.bfloat16()
    naive_BK = h_BF.topk(16, dim=1).indices.sort(dim=1).values
    assert not torch.equal(naive_BK, expected.index_BK.gather(1, other))


def test_too_few_spare_candidates_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "SPARE_CANDIDATES", 0)
    x_BD = torch.randn(300, 32, generator=torch.Generator().manual_seed(1))
    assert 0.1 < selection.exact_share(x_BD, random_encoder(4096, halved=True), 16, Scratch()) < 1.0


def test_dead_features_are_ranked_among_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "MIN_ROWS", 7)
    monkeypatch.setitem(selection.CHUNK_BYTES, "cpu", 0)
    encoder, x_BD = random_encoder(256), torch.randn(40, 32, generator=torch.Generator().manual_seed(1))
    dead_C = torch.arange(0, 256, 3)
    live, dead = best_features(x_BD, encoder, 5, Scratch(), dead_C, 4)
    h_BF = scores(x_BD, encoder)
    assert dead is not None
    expected = h_BF[:, dead_C].topk(4, dim=1).values
    torch.testing.assert_close(dead.score_BK.sort(dim=1, descending=True).values, expected)
    torch.testing.assert_close(h_BF.gather(1, dead.index_BK), dead.score_BK)
    torch.testing.assert_close(h_BF.gather(1, live.index_BK), live.score_BK)


@pytest.mark.parametrize("loud", [1.0, 50.0])
@pytest.mark.parametrize("k", [4.0, 2.5])
def test_the_choice_over_a_batch_is_exact(loud: float, k: float) -> None:
    """A token fifty times as loud as the others takes nearly all of the batch's budget."""
    encoder, x_BD = random_encoder(512), torch.randn(30, 32, generator=torch.Generator().manual_seed(1))
    x_BD[7] *= loud
    n = int(k * 30)
    token_N, feature_N, score_N = choose_over_batch(x_BD, encoder, n, k, Scratch())
    h_BF = scores(x_BD, encoder)
    assert len(score_N) == n
    assert bool((token_N.diff() >= 0).all())
    torch.testing.assert_close(score_N.sort(descending=True).values, h_BF.flatten().topk(n).values)
    torch.testing.assert_close(h_BF[token_N, feature_N], score_N)
    assert len(set(zip(token_N.tolist(), feature_N.tolist(), strict=True))) == n


def test_scratch_travels_empty() -> None:
    scratch = Scratch()
    list(scratch.chunks(torch.zeros(4, 2), 100, torch.float32))
    training = sae.TrainingModule(sae.create(4, 8, 2))
    training._scratch = scratch
    assert deepcopy(training)._scratch._buffer.numel() == 0
