"""SAELens directories: cfg.json and sae_weights.safetensors. Keys are SAELens' own: no key table."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.models.errors import ModelError
from engine.models.sae.config import TRAINING_FORMS, SAEConfig, from_json, to_json
from engine.models.sae.folds import export_form
from engine.models.sae.model import DTYPES, SAE
from engine.models.weights import fill, read_json, read_safetensors

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
# The version whose format we write. SAELens takes a directory that names none for one of before 6.0 and drops
# its metadata.
SAELENS_VERSION = "6.54.12"


def load(directory: Path | str) -> SAE:
    """The autoencoder of a SAELens directory (or ours), in eval mode on the CPU, in its own dtype.

    Training checkpoints of BatchTopK and Matryoshka become the JumpReLU autoencoder they export to.
    Raises ModelError for a missing file, key or unsupported architecture, naming it.
    """
    directory = Path(directory)
    raw = read_json(directory / CONFIG)
    config = from_json(raw)
    if config.normalize_activations == "expected_average_only_in":
        warnings.warn(
            f"{directory}: normalize_activations is expected_average_only_in, so the scale of the inputs was "
            "not folded into the weights; feed activations scaled as in training",
            stacklevel=2,
        )
    if not (directory / WEIGHTS).is_file():
        raise ModelError(f"{directory}: {WEIGHTS} is missing")
    weights = read_safetensors(directory / WEIGHTS)
    with torch.device("meta"):  # the weights bring their own memory
        sae = SAE(config)
    fill(sae, weights, str(directory))
    return (export_form(sae) if config.architecture in TRAINING_FORMS else sae).eval()


def save(sae: SAE, directory: Path | str) -> None:
    """Writes a SAELens directory; `sae_lens.SAE.load_from_disk` opens it and encodes to the same support.

    Decoder norms are folded first where they choose the features, and BatchTopK and Matryoshka become the
    JumpReLU autoencoder of their threshold (`export_form`), as in SAELens' own export.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    sae = export_form(sae)
    dtype = DTYPES[sae.config.dtype]
    weights = {name: part.detach().cpu().to(dtype).contiguous() for name, part in sae.state_dict().items()}
    save_file(weights, directory / WEIGHTS)
    (directory / CONFIG).write_text(json.dumps(export_json(sae.config)))


def export_json(config: SAEConfig) -> dict[str, Any]:
    """cfg.json of an export form."""
    written = to_json(config)
    written["metadata"] = {"sae_lens_version": SAELENS_VERSION, **written["metadata"]}
    return written
