"""The masked-expression objective: what is masked, what the loss is, and that it can be learnt."""

import numpy as np
import pytest
import torch

from engine.models.tahoe import TrainingModule
from tests.models.small_models import small_tahoe, tokens_of


def test_half_of_each_cells_genes_are_masked() -> None:
    encoder = small_tahoe()
    tokens = tokens_of(encoder)
    batch = TrainingModule(encoder).mask(tokens, seed=0)
    generative_T = batch["generative_T"].numpy()
    assert not generative_T[tokens.offsets[:-1]].any()  # never <cls>
    per_cell = np.bincount(tokens.cell_T, weights=generative_T, minlength=tokens.n_cells)
    np.testing.assert_array_equal(per_cell, np.ceil((tokens.lengths - 1) / 2))
    assert (batch["values_T"][batch["generative_T"]] == -1).all()
    np.testing.assert_array_equal(batch["targets_T"], tokens.values_T)


def test_masks_follow_the_seed() -> None:
    encoder = small_tahoe()
    training, tokens = TrainingModule(encoder), tokens_of(encoder)
    first, again, other = (training.mask(tokens, seed)["generative_T"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_loss_is_the_mean_of_both_heads_errors() -> None:
    encoder = small_tahoe()
    training, tokens = TrainingModule(encoder), tokens_of(encoder)
    batch = training.mask(tokens, seed=0)
    found = training(batch)
    generative_T = batch["generative_T"]
    out = encoder(tokens, (), True, generative_T=generative_T).predictions
    errors = [((out[head] - batch["targets_T"]) ** 2)[generative_T].mean() for head in ("expression", "mvc")]
    assert found.loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)
    assert found.metrics["mse"].item() == pytest.approx(errors[0].item(), rel=1e-5)
    assert found.metrics["baseline_mse"].item() == pytest.approx(
        batch["targets_T"][generative_T].var(unbiased=False).item(), rel=1e-4
    )


def test_cells_without_genes_give_no_loss() -> None:
    encoder = small_tahoe()
    training = TrainingModule(encoder)
    found = training(training.mask(tokens_of(encoder).select([2]), seed=0))
    assert found.loss.item() == 0.0


def test_training_lowers_the_loss() -> None:
    encoder = small_tahoe().train()
    training = TrainingModule(encoder)
    batch = training.mask(tokens_of(encoder), seed=0)
    optimizer = torch.optim.Adam(training.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = training(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
