"""SAELens directories: cfg.json and sae_weights.safetensors. Keys are SAELens' own: no key table."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.models.errors import ModelError
from engine.models.sae.config import TRAINING_FORMS, SAEConfig, from_json, to_json
from engine.models.sae.model import SAE, fold_decoder_norm
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
    if raw["architecture"] in TRAINING_FORMS and "topk_threshold" in weights:
        sae = _from_training_form(
            config, weights, rescaled=bool(raw.get("rescale_acts_by_decoder_norm", True))
        )
    else:
        with torch.device("meta"):  # the weights bring their own memory
            sae = SAE(config)
        fill(sae, weights, str(directory))
    return sae.eval()


def save(sae: SAE, directory: Path | str) -> None:
    """Writes a SAELens directory; `sae_lens.SAE.load_from_disk` opens it and encodes to the same support.

    Decoder norms are folded first where that cannot change the support, as SAELens' own export does.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if sae.config.rescale_acts_by_decoder_norm:
        sae = fold_decoder_norm(sae)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in sae.state_dict().items()}
    save_file(weights, directory / WEIGHTS)
    config = to_json(sae.config)
    config["metadata"] = {"sae_lens_version": SAELENS_VERSION, **config["metadata"]}
    (directory / CONFIG).write_text(json.dumps(config))


def _from_training_form(config: SAEConfig, weights: dict[str, Tensor], *, rescaled: bool) -> SAE:
    """BatchTopK weights with their running threshold -> JumpReLU.

    The threshold is in units of h * ||W_dec||, so it enters after the decoder norms are folded.
    """
    threshold = float(weights.pop("topk_threshold"))
    sae = SAE(config)
    fill(sae, weights | {"threshold": torch.zeros_like(weights["b_enc"])}, "BatchTopK training checkpoint")
    sae = fold_decoder_norm(sae) if rescaled else sae
    with torch.no_grad():
        sae.threshold.fill_(threshold)
    return sae
