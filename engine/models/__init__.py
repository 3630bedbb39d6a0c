"""Cell encoders and sparse autoencoders in plain PyTorch: no Ray, no datasets; usable in a notebook.

from engine import models
encoder = models.load("tahoe-x1/70m-model")
match = encoder.tokeniser.match(gene_ids)
tokens = encoder.tokeniser.tokenise(counts.indptr, counts.indices, counts.data, match)
embeddings = encoder.embed(tokens)
"""

from __future__ import annotations

from pathlib import Path

from engine.models import geneformer, sae, tahoe
from engine.models.encoder import Encoder, EncoderOutput
from engine.models.errors import ModelError, UnsafePickle
from engine.models.layers.parallel import TensorShard, worlds
from engine.models.matching import GeneMatch
from engine.models.precision import AskedPrecision, Precision, precision_here
from engine.models.tokens import PackedTokens, Tokeniser, Tokens

__all__ = [
    "AskedPrecision",
    "Encoder",
    "EncoderOutput",
    "GeneMatch",
    "ModelError",
    "PackedTokens",
    "Precision",
    "TensorShard",
    "Tokeniser",
    "Tokens",
    "UnsafePickle",
    "geneformer",
    "load",
    "precision_here",
    "sae",
    "save",
    "tahoe",
    "tensor_parallel_sizes",
]


def load(
    directory: Path | str,
    *,
    precision: Precision = "fp32",
    weights: bool = True,
    shard: TensorShard | None = None,
    drug_token: bool = False,
) -> Encoder:
    """The encoder in a model directory (official or ours; of a joint model its cell tower), in eval mode on
    the CPU.

    weights: False for its configuration, tokeniser and layers on torch's meta device: the weights are
        checked by name and shape, and none is read.
    shard: this process's part of an encoder that several share; it holds and reads only that. Every rank
        then calls the encoder with the same tokens and gets the whole result.
    drug_token: keep Tahoe-x1's token of the drug that a cell was given, which is left out otherwise.
    Raises ModelError when the directory holds no encoder, or one with a missing or unsupported part, or one
    that cannot be shared so (`tensor_parallel_sizes`).
    """
    # Imported here: a joint model is made of encoders that this function loads.
    from engine.models.joint.checkpoint import CELL, is_joint

    directory = Path(directory)
    if not directory.is_dir():
        raise ModelError(f"{directory}: no such model directory")
    if is_joint(directory):
        directory = directory / CELL
    if (directory / "model_config.yml").is_file():
        return tahoe.load(directory, precision=precision, weights=weights, shard=shard, use_chem=drug_token)
    if (directory / "config.json").is_file():
        if drug_token:
            raise ModelError(f"{directory}: a drug token was asked for; only Tahoe-x1 models have one")
        return geneformer.load(directory, precision=precision, weights=weights, shard=shard)
    if (directory / "cfg.json").is_file():
        raise ModelError(f"{directory}: this is a sparse autoencoder (cfg.json), where an encoder is needed")
    raise ModelError(
        f"{directory}: not an encoder directory; expected model_config.yml (Tahoe-x1) or config.json "
        "(Geneformer)"
    )


def save(encoder: Encoder, directory: Path | str) -> None:
    """Writes the encoder in its official layout; `load` opens it again."""
    if isinstance(encoder, tahoe.TahoeEncoder):
        tahoe.save(encoder, directory)
    elif isinstance(encoder, geneformer.GeneformerEncoder):
        geneformer.save(encoder, directory)
    else:
        raise ModelError(f"cannot save a {type(encoder).__name__}")


def tensor_parallel_sizes(encoder: Encoder) -> tuple[int, ...]:
    """By how many devices the encoder can be shared, ascending; 1 is always among them."""
    return worlds(encoder.config.n_heads, encoder.config.d_ffn)
