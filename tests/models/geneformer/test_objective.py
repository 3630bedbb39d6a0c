"""The masked-gene objective: what is masked, what the loss is, and that it can be learnt."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from engine.models.geneformer import TrainingModule
from engine.models.tokens import PackedTokens, Tokens
from tests.models.small_models import small_geneformer, tokens_of


def test_masking_proportions() -> None:
    encoder = small_geneformer()
    tokens = Tokens.concatenate([tokens_of(encoder)] * 200)
    batch = TrainingModule(encoder).mask(tokens, seed=0)
    chosen_T = (batch["targets_T"] >= 0).numpy()
    is_gene_T = encoder.tokeniser.token_classes[tokens.ids_T] == 0
    assert not chosen_T[~is_gene_T].any()
    assert chosen_T[is_gene_T].mean() == pytest.approx(0.15, abs=0.01)
    ids_T = batch["ids_T"].numpy()
    np.testing.assert_array_equal(ids_T[~chosen_T], tokens.ids_T[~chosen_T])
    assert (ids_T[chosen_T] == encoder.tokeniser.mask_id).mean() == pytest.approx(0.8, abs=0.02)
    # 10 % keep their gene, and 1 in 40 of the replaced ones meets its own.
    assert (ids_T[chosen_T] == tokens.ids_T[chosen_T]).mean() == pytest.approx(0.1025, abs=0.02)


def test_masks_follow_the_seed() -> None:
    encoder = small_geneformer()
    training, tokens = TrainingModule(encoder), tokens_of(encoder)
    first, again, other = (training.mask(tokens, seed)["ids_T"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_loss_is_cross_entropy_at_masked_ranks() -> None:
    encoder = small_geneformer()
    training = TrainingModule(encoder)
    batch = training.mask(tokens_of(encoder), seed=0)
    found = training(batch)
    tokens = PackedTokens.from_tensors(batch["ids_T"], batch["values_T"], batch["offsets"])
    logits_TV = encoder(tokens, (), True).predictions["logits"]
    expected = F.cross_entropy(logits_TV, batch["targets_T"], ignore_index=-1)
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert 0 <= found.metrics["accuracy"].item() <= 1


def test_nothing_masked_is_no_loss() -> None:
    encoder = small_geneformer()
    training = TrainingModule(encoder, mask_probability=0.0)
    found = training(training.mask(tokens_of(encoder), seed=0))
    found.loss.backward()
    assert found.loss.item() == 0.0


def test_training_lowers_the_loss() -> None:
    encoder = small_geneformer().train()
    training = TrainingModule(encoder)
    batch = training.mask(tokens_of(encoder), seed=0)
    optimizer = torch.optim.Adam(training.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        loss = training(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
