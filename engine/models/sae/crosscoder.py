"""Crosscoders: one set of features that reads and reconstructs several activations of the same gene token.

The sources are hooks of one model, or hooks of two models whose tokens are aligned by gene within a cell. A
BatchTopK crosscoder is the autoencoder of the concatenated sources: encoder products add up, every source has
its own decoder rows, and one k is chosen for all. Features are chosen by h times the joint norm of their
decoder rows over all sources (decoder norms are shared, not per source), so that a feature of one source
alone competes on equal terms. Each source is centred and scaled by itself to the same RMS norm per
dimension, so that none dominates by its units.

Directory (ours, no SAELens form exists): cfg.json with architecture "crosscoder", d_in of all sources, d_sae
and `sources`, a list of {name, d_in}; sae_weights.safetensors with b_enc [F], threshold [F] and, for source
number s, W_enc.s [d_in, F], W_dec.s [F, d_in], b_dec.s [d_in]. Weights take raw activations of every source.
Source: Lindsey et al. 2024 (sparse crosscoders), Minder et al. 2025 (BatchTopK crosscoders).
Legend: B tokens, S sources, F features, D width of all sources together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.models.errors import ModelError
from engine.models.sae.checkpoint import CONFIG, WEIGHTS
from engine.models.sae.config import SAEConfig
from engine.models.sae.folds import export_form, fold_input_scaling
from engine.models.sae.initialise import initialise
from engine.models.sae.model import SAE
from engine.models.weights import fill, read_json, read_safetensors


@dataclass(frozen=True)
class Source:
    """One of the activations: a name that says model and hook, and its width."""

    name: str
    d_in: int


class Crosscoder(nn.Module):
    """The autoencoder of joined sources with the widths to take them apart again.

    Train `sae` with `TrainingModule(crosscoder.sae)` on `join` of scaled sources.
    """

    def __init__(self, sources: Sequence[Source], sae: SAE, metadata: dict[str, Any] | None = None) -> None:
        super().__init__()
        widths = [source.d_in for source in sources]
        if len(widths) < 2 or sum(widths) != sae.d_in:
            raise ModelError(
                f"a crosscoder needs two or more sources that fill its width {sae.d_in}; got widths {widths}"
            )
        if sae.config.architecture not in ("batchtopk", "jumprelu"):
            raise ModelError(
                f"a crosscoder is batchtopk (jumprelu when written), not {sae.config.architecture}"
            )
        self.sources = tuple(sources)
        self.sae = sae
        self.metadata = dict(metadata or {})

    @classmethod
    def create(cls, sources: Sequence[Source], d_sae: int, k: float, *, seed: int = 0) -> Crosscoder:
        """A fresh one: unit rows over all sources, the encoder their transpose."""
        width = sum(source.d_in for source in sources)
        config = SAEConfig("batchtopk", width, d_sae, k=k, rescale_acts_by_decoder_norm=True)
        return cls(sources, initialise(config, seed=seed))

    def forward(self, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Reconstruction of every source, each [B, d_in], float32."""
        return self.split(self.sae(self.join(parts)))

    def encode(self, parts: Sequence[Tensor]) -> Tensor:
        """Feature activations, dense float32 [B, F], from every source of the same tokens."""
        return self.sae.encode(self.join(parts))

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """[B, D]: the sources side by side. Raises ModelError for another number, width or token count."""
        found = [tuple(part.shape) for part in parts]
        wanted = [(len(parts[0]) if parts else 0, source.d_in) for source in self.sources]
        if found != wanted:
            raise ModelError(f"sources of shapes {found}; expected {wanted}, the same tokens in each")
        return torch.cat(list(parts), dim=-1)

    def split(self, joined_BD: Tensor) -> tuple[Tensor, ...]:
        """The sources of joined activations."""
        return torch.split(joined_BD, [source.d_in for source in self.sources], dim=-1)

    @torch.no_grad()
    def decoder_norms(self) -> Tensor:
        """[S, F]: norm of each feature's decoder row by source."""
        return torch.stack([rows_FD.norm(dim=-1) for rows_FD in self.split(self.sae.W_dec)])

    @torch.no_grad()
    def shares(self) -> Tensor:
        """[S, F]: each source's part of a feature's decoder norms; 1 is a feature of that source alone."""
        norm_SF = self.decoder_norms()
        return norm_SF / norm_SF.sum(0).clamp(min=1e-30)


def input_scaling(parts: Sequence[Tensor]) -> tuple[list[Tensor], list[float]]:
    """Mean [d_in] and scale of every source from a sample: (x - mean) * scale has RMS norm sqrt(d_in)."""
    means, scales = [], []
    for part in parts:
        mean_D = part.double().mean(0)
        spread = float((part.double() - mean_D).square().sum(-1).mean())
        means.append(mean_D.float())
        scales.append((part.shape[-1] / spread) ** 0.5 if spread > 0 else 1.0)
    return means, scales


def fold_source_scaling(
    crosscoder: Crosscoder, means: Sequence[Tensor], scales: Sequence[float]
) -> Crosscoder:
    """A JumpReLU copy that takes raw activations, of one trained on (x - mean) * scale of every source.

    Decoder norms and the running threshold are folded first, because a scale that differs by source would
    change the joint norms. Same support; every source is reconstructed in its own units. Means and scales
    are kept in metadata.
    """
    widths = [source.d_in for source in crosscoder.sources]
    scale_D = torch.cat([torch.full((width,), scale) for width, scale in zip(widths, scales, strict=True)])
    folded = fold_input_scaling(export_form(crosscoder.sae), torch.cat(list(means)), scale_D)
    metadata = {"input_scales": list(scales), "input_mean_norms": [float(mean_D.norm()) for mean_D in means]}
    return Crosscoder(crosscoder.sources, folded, crosscoder.metadata | metadata)


def save_crosscoder(crosscoder: Crosscoder, directory: Path | str) -> None:
    """Writes a crosscoder directory (above); BatchTopK becomes JumpReLU with its threshold."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    exported = export_form(crosscoder.sae)
    weights: dict[str, Tensor] = {"b_enc": exported.b_enc, "threshold": exported.threshold}
    encoder, decoder = crosscoder.split(exported.W_enc_FD), crosscoder.split(exported.W_dec)
    for number, bias_D in enumerate(crosscoder.split(exported.b_dec)):
        weights[f"W_enc.{number}"] = encoder[number].T
        weights[f"W_dec.{number}"] = decoder[number]
        weights[f"b_dec.{number}"] = bias_D
    save_file({name: part.detach().cpu().contiguous() for name, part in weights.items()}, directory / WEIGHTS)
    config = {
        "architecture": "crosscoder",
        "d_in": exported.d_in,
        "d_sae": exported.d_sae,
        "sources": [asdict(source) for source in crosscoder.sources],
        "metadata": crosscoder.metadata,
    }
    (directory / CONFIG).write_text(json.dumps(config))


def is_crosscoder(directory: Path | str) -> bool:
    """Whether an autoencoder's directory is a crosscoder's. Raises ModelError where there is no cfg.json."""
    return read_json(Path(directory) / CONFIG).get("architecture") == "crosscoder"


def load_crosscoder(directory: Path | str) -> Crosscoder:
    """The crosscoder of a directory, in eval mode on the CPU. Raises ModelError, naming what does not fit."""
    directory = Path(directory)
    raw = read_json(directory / CONFIG)
    if raw.get("architecture") != "crosscoder":
        raise ModelError(f"{directory}: architecture is {raw.get('architecture')!r}; expected 'crosscoder'")
    sources = [Source(**entry) for entry in raw["sources"]]
    stored = read_safetensors(directory / WEIGHTS)
    names = [f"{kind}.{number}" for kind in ("W_enc", "W_dec", "b_dec") for number in range(len(sources))]
    missing = [name for name in ("b_enc", "threshold", *names) if name not in stored]
    if missing:
        raise ModelError(f"{directory / WEIGHTS}: {', '.join(missing)} missing")
    axes = {"W_enc": 0, "W_dec": 1, "b_dec": 0}
    joined = {
        kind: torch.cat([stored[f"{kind}.{number}"] for number in range(len(sources))], dim=axis)
        for kind, axis in axes.items()
    }
    width = sum(source.d_in for source in sources)
    with torch.device("meta"):
        sae = SAE(SAEConfig("jumprelu", width, int(raw["d_sae"])))
    fill(sae, joined | {"b_enc": stored["b_enc"], "threshold": stored["threshold"]}, str(directory))
    return Crosscoder(sources, sae, raw.get("metadata")).eval()
