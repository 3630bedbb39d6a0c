"""Crosscoders: shared features are found in both sources, private ones in theirs; directories round-trip."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.models import sae
from engine.models.errors import ModelError
from engine.models.sae import crosscoder
from engine.models.sae.crosscoder import Crosscoder, Source

SOURCES = (Source("tahoe layers.2", 24), Source("geneformer layers.4", 16))


def tokens(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Twelve features: four in both sources, four in each alone; offsets and units that differ."""
    fixed, drawn = torch.Generator().manual_seed(7), torch.Generator().manual_seed(seed)
    first, second = torch.randn(12, 24, generator=fixed), torch.randn(12, 16, generator=fixed)
    first[8:], second[4:8] = 0, 0
    codes = torch.rand(n, 12, generator=drawn) * (torch.rand(n, 12, generator=drawn) < 0.15)
    return codes @ first * 10 + 30, codes @ second * 0.1 - 2


def trained() -> tuple[Crosscoder, list[torch.Tensor], list[float]]:
    fresh = Crosscoder.create(SOURCES, 64, 2.0)
    means, scales = crosscoder.input_scaling(tokens(4000, 0))
    training = sae.TrainingModule(fresh.sae)
    optimiser = torch.optim.Adam(training.parameters(), lr=5e-3)
    for step in range(150):
        parts = [(x - m) * s for x, m, s in zip(tokens(256, step), means, scales, strict=True)]
        optimiser.zero_grad()
        training(fresh.join(parts)).loss.backward()
        optimiser.step()
    return fresh, means, scales


@torch.no_grad()
def test_features_are_shared_or_private_as_they_are(tmp_path: Path) -> None:
    with torch.enable_grad():
        fitted, means, scales = trained()
    raw = tokens(1000, 999)
    parts = [(x - m) * s for x, m, s in zip(raw, means, scales, strict=True)]
    folded = crosscoder.fold_source_scaling(fitted, means, scales)
    a_BF = fitted.encode(parts)
    assert torch.equal(folded.encode(raw) != 0, a_BF != 0)
    for x_BD, r_BD in zip(raw, folded(raw), strict=True):
        assert r_BD.shape == x_BD.shape
        assert float((r_BD - x_BD).square().sum() / (x_BD - x_BD.mean(0)).square().sum()) < 0.25
    share_F = fitted.shares()[0][(a_BF > 0).sum(0) > 50]
    assert bool((share_F > 0.8).any())
    assert bool((share_F < 0.2).any())
    assert bool(((share_F > 0.35) & (share_F < 0.65)).any())
    crosscoder.save_crosscoder(folded, tmp_path)
    again = crosscoder.load_crosscoder(tmp_path)
    assert again.sources == SOURCES
    assert again.metadata["input_scales"] == scales
    assert torch.equal(again.encode(raw), folded.encode(raw))
    assert load_file(tmp_path / "sae_weights.safetensors")["W_enc.1"].shape == (16, 64)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    fresh = Crosscoder.create(SOURCES, 64, 2.0)
    with pytest.raises(ModelError, match=r"expected \[\(5, 24\), \(5, 16\)\]"):
        fresh.join((torch.zeros(5, 24), torch.zeros(4, 16)))
    with pytest.raises(ModelError, match="fill its width 40; got widths"):
        Crosscoder(SOURCES[:1], fresh.sae)
    with pytest.raises(ModelError, match="a crosscoder is batchtopk"):
        Crosscoder(SOURCES, sae.create(40, 64, 2))
    with pytest.raises(ModelError, match="a scale by dimension would change the decoder norms"):
        sae.fold_input_scaling(fresh.sae, torch.zeros(40), torch.ones(40))
    crosscoder.save_crosscoder(fresh, tmp_path)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    del weights["b_dec.1"]
    save_file(weights, tmp_path / "sae_weights.safetensors")
    with pytest.raises(ModelError, match=r"b_dec\.1 missing"):
        crosscoder.load_crosscoder(tmp_path)
    with pytest.raises(ModelError, match="architecture 'crosscoder' is not supported"):
        sae.load(tmp_path)
