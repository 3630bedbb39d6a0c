"""What an autoencoder must beat: random directions, random directions with a trained encoder, PCA, neurons.

All have as many active features a token as the autoencoder has on average, and know the mean, as it does. The
random ones have as many features as well.

Shape legend: T tokens, D width, J directions, F features.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load, save

from engine.interpret.evaluation.dictionaries import (
    TOKENS_AT_ONCE,
    Autoencoder,
    Dictionary,
    SignedBasis,
)
from engine.interpret.evaluation.frozen_decoder import BATCH_TOKENS, train_frozen
from engine.interpret.evaluation.inputs import EvaluationInputs
from engine.interpret.evaluation.tokens import prepared
from engine.models import sae
from storage.checkpoints import local_copy

TRAINED = "sae"
RANDOM, FROZEN, PCA, NEURONS = "random_sae", "frozen_decoder", "pca", "neurons"
BASELINES = (RANDOM, FROZEN, PCA, NEURONS)
_BASIS = "pca.safetensors"


@dataclass(frozen=True)
class Statistics:
    """Of the calibration cells: mean_D; scale, which brings centred activations to RMS norm sqrt(D); k, the
    evaluated autoencoder's active features a token, rounded."""

    mean_D: torch.Tensor
    scale: float
    k: int

    @classmethod
    def of(cls, x_TD: torch.Tensor, autoencoder: sae.SAE) -> Statistics:
        """Of float32 activations of genes, on the host; the autoencoder may be elsewhere."""
        mean_D = x_TD.double().mean(0)
        variance = float((x_TD.double() - mean_D).square().sum(1).mean())
        dictionary, active = Autoencoder(autoencoder), 0
        for start in range(0, len(x_TD), TOKENS_AT_ONCE):
            x_PD = x_TD[start : start + TOKENS_AT_ONCE].to(autoencoder.W_dec.device)
            active += int((dictionary.explain(x_PD).value_TK > 0).sum())
        k = min(max(round(active / max(len(x_TD), 1)), 1), autoencoder.d_sae)
        scale = math.sqrt(x_TD.shape[1] / variance) if variance > 0 else 1.0
        return cls(mean_D.float(), scale, k)


def random_autoencoder(inputs: EvaluationInputs, found: Statistics, seed: int) -> sae.SAE:
    """Untrained TopK in units of scaled activations: random unit directions, the encoder their transpose."""
    return sae.create(inputs.config.d_in, inputs.config.d_sae, found.k, seed=seed)


def principal_directions(x_TD: torch.Tensor, mean_D: torch.Tensor, k: int) -> torch.Tensor:
    """The k directions of largest variance [k, D], each with its largest entry positive."""
    centred_TD = x_TD.double() - mean_D.double()
    _, vectors_DD = torch.linalg.eigh(centred_TD.T @ centred_TD)
    basis_JD = vectors_DD.T.flip(0)[:k].contiguous()
    largest_J1 = basis_JD.gather(1, basis_JD.abs().argmax(1, keepdim=True))
    directions_JD: torch.Tensor = (basis_JD * largest_J1.sign()).float()
    return directions_JD


def build(
    inputs: EvaluationInputs,
    found: Statistics,
    x_TD: torch.Tensor,
    names: tuple[str, ...],
    *,
    steps: int,
    seed: int,
    device: str = "cpu",
) -> dict[str, bytes]:
    """The baselines as objects to keep: SAELens directories, and PCA's basis; `opened` takes them up again.

    x_TD: float32 activations of the calibration cells' genes.
    """
    objects: dict[str, bytes] = {}
    if RANDOM in names:
        random = random_autoencoder(inputs, found, seed)
        sae.fit_encoder_scale(random, (x_TD[:BATCH_TOKENS] - found.mean_D) * found.scale)
        objects |= _directory(RANDOM, sae.fold_input_scaling(random, found.mean_D, found.scale))
    if FROZEN in names:
        batches = shuffled_batches(inputs, BATCH_TOKENS, seed)
        fresh = random_autoencoder(inputs, found, seed + 1).to(device)
        trained = train_frozen(fresh, batches, steps, found.mean_D.to(device), found.scale)
        objects |= _directory(FROZEN, trained)
    if PCA in names:
        basis_JD = principal_directions(x_TD, found.mean_D, found.k)
        objects[f"baselines/{_BASIS}"] = save({"basis": basis_JD.numpy()})
    return objects


def opened(
    inputs: EvaluationInputs, found: Statistics, objects: Mapping[str, bytes], names: tuple[str, ...]
) -> dict[str, Dictionary]:
    """The evaluated autoencoder, then the baselines in the order of `BASELINES`."""
    dictionaries: dict[str, Dictionary] = {TRAINED: Autoencoder(sae.load(local_copy(inputs.sae_path)))}
    for name in BASELINES:
        if name not in names:
            continue
        if name in (RANDOM, FROZEN):
            dictionaries[name] = Autoencoder(_loaded(name, objects))
        elif name == PCA:
            basis = torch.from_numpy(load(objects[f"baselines/{_BASIS}"])["basis"])
            dictionaries[name] = SignedBasis(found.mean_D, found.k, basis)
        else:
            dictionaries[name] = SignedBasis(found.mean_D, found.k)
    return dictionaries


def shuffled_batches(inputs: EvaluationInputs, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Shuffled activations [size, D] of tokens of `inputs.kind`, from the whole cache, without end."""
    rest: list[torch.Tensor] = []
    for tokens in inputs.cache.batches(inputs.hook, size, seed=seed):
        wanted = np.flatnonzero(tokens.token_class == inputs.kind)
        x_TD = tokens.acts[torch.from_numpy(wanted)].float()
        rest.append(prepared(inputs, x_TD, tokens.gene[wanted].astype(np.int64)))
        if sum(map(len, rest)) >= size:
            whole_TD = torch.cat(rest)
            yield whole_TD[:size]
            rest = [whole_TD[size:]]


def _directory(name: str, autoencoder: sae.SAE) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        sae.save(autoencoder, folder)
        return {f"baselines/{name}/{path.name}": path.read_bytes() for path in sorted(Path(folder).iterdir())}


def _loaded(name: str, objects: Mapping[str, bytes]) -> sae.SAE:
    prefix = f"baselines/{name}/"
    with tempfile.TemporaryDirectory() as folder:
        for path, content in objects.items():
            if path.startswith(prefix):
                (Path(folder) / path.removeprefix(prefix)).write_bytes(content)
        return sae.load(folder)
