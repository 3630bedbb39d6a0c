"""Replacements at a hook of both encoders: what must change, what must not, and by how much."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from engine.interpret.evaluation import splicing
from engine.interpret.evaluation.dictionaries import Explained, SignedBasis
from engine.interpret.evaluation.downstream import embedding_table, loss_table
from engine.interpret.evaluation.splicing import (
    ALL_GENES,
    BASE,
    MEAN,
    SHOWN_GENES,
    ZERO,
    ChunkResult,
    embedding_layer,
    embeddings_of,
    hidden_losses,
    replacements,
)
from engine.models import geneformer, tahoe
from engine.models.encoder import Encoder
from engine.models.tokens import Tokens
from tests.models.small_models import small_geneformer, small_tahoe, tokens_of

WIDTH = 16


class Perfect:
    """A dictionary that leaves nothing unexplained."""

    n_features = 1

    def explain(self, x_TD: torch.Tensor) -> Explained:
        return Explained(torch.zeros(len(x_TD), 1, dtype=torch.int64), x_TD[:, :1], x_TD)

    def to(self, device: torch.device | str) -> Perfect:
        return self


DICTIONARIES = {"perfect": Perfect(), "poor": SignedBasis(torch.zeros(WIDTH), 2)}


@pytest.fixture(params=["tahoe", "geneformer"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return small_tahoe() if request.param == "tahoe" else small_geneformer()


@pytest.fixture
def tokens(encoder: Encoder) -> Tokens:
    return tokens_of(encoder, 12)


def _chunk(encoder: Encoder, tokens: Tokens, hook: str, seed: int = 3) -> ChunkResult:
    choices = replacements(DICTIONARIES, torch.ones(WIDTH))
    is_gene_T = encoder.tokeniser.token_classes[tokens.ids_T] == 0
    with torch.inference_mode():
        hidden_C, losses = hidden_losses(encoder, tokens, is_gene_T, hook, choices, seed)
        embeddings = embeddings_of(encoder, tokens, is_gene_T, hook, choices)
    return ChunkResult(np.arange(tokens.n_cells), hidden_C, losses, embeddings)


def test_the_base_loss_is_that_of_training(encoder: Encoder, tokens: Tokens) -> None:
    kind = tahoe if isinstance(encoder, tahoe.TahoeEncoder) else geneformer
    module = kind.TrainingModule(encoder)
    with torch.no_grad():
        expected = float(module(module.mask(tokens, seed=3)).loss)
    table = loss_table([_chunk(encoder, tokens, "resid_post_0")])
    base = table[(table["term"] == "loss")]["base"]
    assert base.to_numpy() == pytest.approx(np.full(len(base), expected), rel=1e-5)
    terms = {"loss", "expression", "mvc"} if kind is tahoe else {"loss", "cross_entropy"}
    assert set(table["term"]) == terms


def test_a_perfect_reconstruction_recovers_all_and_raw_losses_are_kept(
    encoder: Encoder, tokens: Tokens
) -> None:
    chunk = _chunk(encoder, tokens, "resid_post_0")
    table = loss_table([chunk]).set_index(["dictionary", "scope", "term"])
    for scope in (ALL_GENES, SHOWN_GENES):
        row = table.loc["perfect", scope, "loss"]
        assert row["spliced"] == pytest.approx(row["base"], rel=1e-6)
        assert row["recovered_zero"] == pytest.approx(1, abs=1e-4)
        assert row["reached"]
        poor = table.loc["poor", scope, "loss"]
        gap = poor["zero_ablation"] - poor["base"]
        assert poor["recovered_zero"] == pytest.approx((poor["zero_ablation"] - poor["spliced"]) / gap)
        assert poor["spliced"] != poor["base"]
    # Hidden genes' own states are replaced in one scope alone.
    scopes = table.loc["poor"].xs("loss", level="term")["spliced"]
    assert scopes[ALL_GENES] != scopes[SHOWN_GENES]


def test_chunks_of_cells_add_up(encoder: Encoder, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden alike, cells give the same losses together and apart."""
    whole = _chunk(encoder, tokens, "resid_post_0")
    batch, hidden_T = splicing._masked(encoder, tokens, 3)
    parts = []
    for cells in (np.arange(5), np.arange(5, 12)):
        first, last = tokens.offsets[cells[0]], tokens.offsets[cells[-1] + 1]
        part = {name: tensor[first:last] for name, tensor in batch.items() if name != "offsets"} | {
            "offsets": batch["offsets"][cells[0] : cells[-1] + 2] - first
        }
        monkeypatch.setattr(splicing, "_masked", lambda *_, p=part, h=hidden_T[first:last]: (p, h))
        parts.append(_chunk(encoder, tokens.select(cells), "resid_post_0"))
    pd.testing.assert_frame_equal(loss_table(parts), loss_table([whole]), rtol=1e-4, check_exact=False)


def test_what_a_late_hook_cannot_reach_is_said(encoder: Encoder, tokens: Tokens) -> None:
    chunk = _chunk(encoder, tokens, "final")
    assert embedding_layer(encoder, "final") == encoder.n_layers - 1
    shown = loss_table([chunk]).query("scope == @SHOWN_GENES and term == 'loss'")
    # From the last state on a prediction sees its own token alone, and that is a hidden one.
    assert not shown["reached"].any()
    assert shown["recovered_zero"].isna().all()
    table = embedding_table([chunk], None, seed=0).set_index(["pool", "replacement"])
    assert table.loc["mean", "reached"].all()
    assert table.loc[("mean", "perfect"), "cosine"] == pytest.approx(1, abs=1e-5)
    if "cls" in table.index:
        assert not table.loc["cls", "reached"].any()


def test_what_is_left_beside_gene_means_is_explained_alone() -> None:
    means_GD = torch.arange(12.0).view(3, 4)
    choices = replacements({"nothing": SignedBasis(torch.zeros(4), 1)}, torch.full((4,), 0.5), means_GD)
    x_RD, ids_R = means_GD[[2, 0]] + torch.tensor([0.0, 0.0, 3.0, 0.1]), torch.tensor([2, 0])
    expected = means_GD[[2, 0]] + torch.tensor([0.0, 0.0, 3.0, 0.0])
    torch.testing.assert_close(choices["nothing"](x_RD, ids_R), expected)
    torch.testing.assert_close(choices[MEAN](x_RD, ids_R), means_GD[[2, 0]] + 0.5)
    assert not choices[ZERO](x_RD, ids_R).any()


def test_embeddings_of_replacements_are_read_by_probes() -> None:
    rng = np.random.default_rng(0)
    label_C = np.append(np.repeat([0, 1], 30), -1)
    base_CD = rng.standard_normal((61, 4)).astype(np.float32)
    base_CD[:60, 0] += 6 * label_C[:60] - 3
    turned_CD = -base_CD
    embeddings = {
        (name, "mean"): e_CD
        for name, e_CD in ((BASE, base_CD), ("turned", turned_CD), (ZERO, 0 * base_CD), (MEAN, 0 * base_CD))
    }
    chunk = ChunkResult(np.arange(61), np.ones(61, np.int64), {}, embeddings)
    table = embedding_table([chunk], label_C, seed=0).set_index("replacement")
    assert table.loc[BASE, "accuracy_same_probe"] > 0.95
    assert table.loc["turned", "accuracy_same_probe"] < 0.05
    assert table.loc["turned", "accuracy_own_probe"] > 0.95
    assert table.loc["turned", "cosine"] == pytest.approx(-1, abs=0.03)
    assert table.loc[ZERO, "accuracy_own_probe"] == pytest.approx(0.5, abs=0.05)
    assert (table["n_labelled"] == 60).all()
