"""What an autoencoder of `train-sae` is held to: items 1 and 5 of docs/reference/acceptance.md."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sae_lens import SAE

from engine.models import sae
from engine.training.recipes.sae import ARCHITECTURES
from jobs.train_sae import main
from storage.activations import ActivationCache
from tests.benchmarks.quality.synthetic_cells import WIDTH, SyntheticCells

FEATURES, ACTIVE, STEPS, BATCH = 512, 8, 40, 512
OFFSET = 10.0


def train(cache: str, output: Path, *flags: str) -> Path:
    assert main(["--cache", cache, "--workers", "0", "--output", str(output), *flags]) == 0
    return output


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saelens_opens_what_we_train_and_fires_the_same_features(
    cache: str, tmp_path: Path, architecture: str
) -> None:
    sizes = ["--width", "64", "--k", "4", "--steps", "8", "--batch-tokens", "256", "--lr", "3e-3"]
    directory = train(cache, tmp_path / "out", "--arch", architecture, *sizes)
    opened = ActivationCache.open(cache)
    x_TD = torch.cat([opened.read(opened.hooks[0], member.key).acts.float() for member in opened.members])
    ours, theirs = sae.load(directory), SAE.load_from_disk(str(directory), device="cpu")
    with torch.no_grad():
        a_TF, b_TF = ours.encode(x_TD), theirs.encode(x_TD)
        assert a_TF.any()
        assert torch.equal(a_TF > 0, b_TF > 0)
        assert torch.allclose(ours(x_TD), theirs(x_TD), atol=1e-4)


def dead_share(decoder: sae.SAE, source: SyntheticCells) -> float:
    """Features that fire on no token of 32 cells that were not trained on."""
    fired_F = torch.zeros(decoder.d_sae, dtype=torch.bool)
    for number in range(32):
        codes = decoder.encode_sparse(source.cell(10**6 + number))
        fired_F[codes.index_BK[codes.value_BK > 0]] = True
    return 1 - float(fired_F.float().mean())


def test_an_offset_of_ten_times_the_spread_kills_no_features(tmp_path: Path) -> None:
    sizes = ["--width", str(FEATURES), "--k", str(ACTIVE), "--steps", str(STEPS)]
    sizes += ["--batch-tokens", str(BATCH), "--lr", "5e-3"]
    dead = {}
    for gamma in (0.0, OFFSET):
        source = SyntheticCells(gamma)
        cache = source.write_cache(tmp_path / f"cache_{gamma}", n_cells=STEPS * BATCH // 256)
        directory = train(str(cache), tmp_path / f"sae_{gamma}", *sizes)
        dead[gamma] = dead_share(sae.load(directory), source)
    assert dead[OFFSET] == pytest.approx(dead[0.0], abs=0.01)
    assert dead[OFFSET] < 0.5


def test_the_same_offset_kills_most_features_of_an_autoencoder_that_is_not_centred() -> None:
    """That the tokens above are the hard ones."""
    source = SyntheticCells(OFFSET)
    training = sae.TrainingModule(sae.create(WIDTH, FEATURES, ACTIVE))
    optimiser = torch.optim.Adam(training.parameters(), lr=5e-3)
    for _, x_BD in zip(range(STEPS), source.stream(BATCH, 64), strict=False):
        (training(x_BD).loss / WIDTH).backward()
        torch.nn.utils.clip_grad_norm_(training.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    assert dead_share(training.sae, source) > 0.8
