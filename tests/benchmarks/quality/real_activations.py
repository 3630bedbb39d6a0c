"""Activations of real cells: PBMCs through an encoder trained as the demo trains its own."""

from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from engine.streaming.inputs import Inputs
from engine.streaming.products.activations import ActivationProduct
from engine.streaming.recipe import Recipe
from jobs import train_encoder
from jobs.anatomy import execute, parse
from jobs.demo_steps import Sizes
from storage.ingest import ingest
from tests.streaming.in_process import encode_here

HELD_OUT_EVERY = 8
SHARD_TOKENS = 65_536


@dataclass(frozen=True)
class RealActivations:
    """Paths of two caches of the same hook point of the same encoder, of different cells."""

    train: Path
    held_out: Path


def real_activations(
    folder: Path, counts: sparse.csr_matrix, genes: list[str], sizes: Sizes, encoder_steps: int
) -> RealActivations:
    """Every eighth cell is held out from the autoencoders; the encoder has seen them all."""
    held = np.arange(counts.shape[0]) % HELD_OUT_EVERY == 0
    for name, chosen in (("all", np.ones_like(held)), ("train", ~held), ("held_out", held)):
        var = pd.DataFrame(index=pd.Index(genes, name="gene_id"))
        anndata.AnnData(counts[np.flatnonzero(chosen)], var=var).write_h5ad(folder / f"{name}.h5ad")
        ingest([str(folder / f"{name}.h5ad")], str(folder / name))
    encoder, hook = _encoder(folder, sizes, encoder_steps)
    caches = []
    for name in ("train", "held_out"):
        inputs = Inputs.open(str(folder / name), str(encoder), None)
        product = ActivationProduct(
            hooks=(hook,),
            precision="bf16",
            tokens_per_cell=None,
            special_tokens=False,
            seed=0,
            identity={"model": inputs.model.fingerprint, "store": inputs.store.dataset_id},
            shard_tokens=SHARD_TOKENS,
        )
        caches.append(folder / f"{name}_cache")
        encode_here(inputs, product, caches[-1], Recipe(inputs.model.max_tokens))
    return RealActivations(*caches)


def _encoder(folder: Path, sizes: Sizes, steps: int) -> tuple[Path, str]:
    """(directory, its last block's hook point)."""
    flags = ["--cells", str(folder / "all"), "--arch", "tahoe", "--workers", "0"]
    flags += ["--layers", str(sizes.layers), "--d-model", str(sizes.d_model), "--heads", str(sizes.heads)]
    flags += ["--batch-cells", str(sizes.batch_cells), "--lr", str(sizes.encoder_lr), "--steps", str(steps)]
    flags += ["--output", str(folder / "encoder")]
    execute("train-encoder", parse("train-encoder", train_encoder.Options, flags), train_encoder.run)
    return folder / "encoder", f"resid_post_{sizes.layers - 1}"
