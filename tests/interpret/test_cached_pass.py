"""A pass over a cache, shard by shard, in this process."""

import shutil
from pathlib import Path

import numpy as np
import torch

from engine.interpret.cached_pass import CachedPass, observe_shards
from engine.interpret.cell_activations import peak_activations
from engine.interpret.inputs import FeatureInputs
from engine.interpret.prompts import prompts_of_shard
from engine.interpret.scores import feature_moments
from engine.interpret.state import PassPlan
from engine.models import sae
from engine.models.sae.gene_means import save_gene_means
from tests.interpret.inputs import CELLS, FEATURES, GENES, SPECIAL, WIDTH, Place


def test_an_autoencoder_of_gene_residuals_is_given_residuals(place: Place, tmp_path: Path) -> None:
    means_GD = 3 * torch.randn(GENES + SPECIAL, WIDTH, generator=torch.Generator().manual_seed(0))
    shutil.copytree(place.sae, tmp_path / "sae")
    save_gene_means(means_GD, tmp_path / "sae")
    inputs = FeatureInputs.open(str(tmp_path / "sae"), str(place.cache), str(place.cells))
    plain = FeatureInputs.open(str(place.sae), str(place.cache), str(place.cells))

    expected_TF, cell_T = [], []
    for record in inputs.cache.members:
        tokens = inputs.cache.read(inputs.hook, record.key)
        kept = torch.from_numpy(tokens.gene >= SPECIAL)
        residual = tokens.acts.float() - means_GD[torch.from_numpy(tokens.gene.astype(np.int64))]
        expected_TF.append(sae.load(place.sae).encode(residual[kept]).detach())
        cell_T.append(tokens.cell[kept.numpy()].astype(np.int64))
    a_TF, cell = torch.cat(expected_TF).numpy(), np.concatenate(cell_T)

    plan = PassPlan(FEATURES, GENES + SPECIAL)
    state, unaware = (observe_shards(one, plan, range(3)) for one in (inputs, plain))
    assert feature_moments(state).fired_F.tolist() == (a_TF > 0).sum(axis=0).tolist()
    assert feature_moments(state).fired_F.tolist() != feature_moments(unaware).fired_F.tolist()
    peak_CF = peak_activations(inputs)
    for number in range(CELLS):
        np.testing.assert_allclose(peak_CF[number], a_TF[cell == number].max(axis=0), atol=1e-5)
    feature = int(peak_CF[5].argmax())
    (prompt,) = prompts_of_shard(inputs, 0, np.array([feature]), np.array([5]))
    assert prompt.value_W[prompt.strongest] == np.float32(peak_CF[5, feature])
    assert CachedPass(inputs).sample_peak() != CachedPass(plain).sample_peak()
