"""What an autoencoder's directory says that it reads, in the process of an encoder."""

from __future__ import annotations

from engine.interpret.inputs import EncodedInputs
from engine.interpret.passes import autoencoder, gene_means
from engine.models import Encoder
from engine.models.interventions import Reading
from engine.models.sae.checkpoint import CONFIG
from engine.models.sae.config import from_json
from engine.models.sae.gene_means import load_gene_means
from engine.models.weights import read_json
from storage.checkpoints import local_copy
from storage.errors import InputError


def open_reading(encoder: Encoder, path: str, fingerprint: str) -> Reading:
    """The autoencoder on the encoder's device, the tokens it is about, and the gene means it is beside."""
    device = str(encoder.device)
    means_GD = gene_means(path, fingerprint, device)
    return Reading.of(encoder, autoencoder(path, fingerprint, device), means_GD)


def require_readable(inputs: EncodedInputs) -> None:
    """Raises InputError for a transcoder, and for gene means of another vocabulary."""
    directory = local_copy(inputs.sae_path)
    if from_json(read_json(directory / CONFIG)).d_out is not None:
        raise InputError(
            f"{inputs.sae_path} is a transcoder: it reconstructs another hook than the one it reads. Give an "
            "autoencoder."
        )
    means_GD = load_gene_means(directory)
    wanted = (len(inputs.genes), inputs.stream.model.d_model)
    if means_GD is not None and tuple(means_GD.shape) != wanted:
        raise InputError(
            f"{inputs.sae_path} takes activations less gene means of shape {tuple(means_GD.shape)}; the "
            f"model {inputs.stream.model.path} has {wanted[0]:,} token ids and width {wanted[1]}."
        )
