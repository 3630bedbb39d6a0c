"""The demo's commands, and how large its models are."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from jobs.demo_text import minilm_directory

N_CELLS = 700


@dataclass(frozen=True)
class Sizes:
    """How large the demo's models are and how long they train."""

    layers: int
    d_model: int
    heads: int
    batch_cells: int
    encoder_steps: int
    encoder_lr: float
    sae_features: int
    sae_active: int
    sae_steps: int
    sae_batch_tokens: int
    joint_width: int
    joint_steps: int


FULL = Sizes(
    layers=2,
    d_model=128,
    heads=4,
    batch_cells=8,
    encoder_steps=600,
    encoder_lr=3e-3,
    sae_features=512,
    sae_active=16,
    sae_steps=600,
    sae_batch_tokens=2048,
    joint_width=128,
    joint_steps=400,
)
SMALL = Sizes(
    layers=2,
    d_model=32,
    heads=2,
    batch_cells=8,
    encoder_steps=40,
    encoder_lr=3e-3,
    sae_features=128,
    sae_active=8,
    sae_steps=60,
    sae_batch_tokens=2048,
    joint_width=32,
    joint_steps=40,
)


@dataclass(frozen=True)
class Step:
    """One command of the demo; its output is the folder of OUTPUT that `name` says."""

    name: str
    job: str
    purpose: str
    arguments: tuple[str, ...]

    @property
    def command(self) -> str:
        return shlex.join(["syncytium", self.job, *self.arguments])


def _flags(**values: object) -> tuple[str, ...]:
    """`_flags(d_model=128)` -> ("--d-model", "128")."""
    return tuple(
        part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))
    )


def steps(folder: Path, sizes: Sizes, seed: int) -> list[Step]:
    """The street as commands: what is shown is what is run."""
    cells, encoder, cache, autoencoder = (
        folder / name for name in ("cells", "encoder", "cache", "autoencoder")
    )
    return [
        Step(
            "cells",
            "ingest",
            "checks the counts and writes them as a cell store",
            (str(folder / "pbmc68k.h5ad"), *_flags(gene_id_key="gene_name", output=cells)),
        ),
        Step(
            "encoder",
            "train-encoder",
            "hides half of each cell's genes and learns to tell their counts, from random weights",
            _flags(
                cells=cells,
                arch="tahoe",
                layers=sizes.layers,
                d_model=sizes.d_model,
                heads=sizes.heads,
                batch_cells=sizes.batch_cells,
                steps=sizes.encoder_steps,
                lr=sizes.encoder_lr,
                seed=seed,
                output=encoder,
            ),
        ),
        Step(
            "embeddings",
            "embed",
            "turns every cell into one vector",
            _flags(cells=cells, model=encoder, output=folder / "embeddings"),
        ),
        Step(
            "cache",
            "cache",
            "keeps what the encoder holds for every gene of every cell",
            _flags(cells=cells, model=encoder, hooks=f"resid_post_{sizes.layers - 1}", output=cache),
        ),
        Step(
            "autoencoder",
            "train-sae",
            "takes those activations apart into features, of which few are active at a time",
            _flags(
                cache=cache,
                width=sizes.sae_features,
                k=sizes.sae_active,
                steps=sizes.sae_steps,
                batch_tokens=sizes.sae_batch_tokens,
                seed=seed,
                output=autoencoder,
            ),
        ),
        Step(
            "features",
            "features",
            "finds the genes, cells and cell types each feature responds to",
            _flags(
                sae=autoencoder,
                cache=cache,
                cells=cells,
                label="cell_type",
                # What is known of a gene from fewer tokens is chance.
                min_gene_tokens=10,
                # The genes of a feature's cells: what may tell which cells they are.
                score="presence",
                # All there are: the served page colours every cell by a feature.
                top_cells=N_CELLS,
                output=folder / "features",
            ),
        ),
        Step(
            "enrichment",
            "enrich",
            "asks which textbook markers a feature's genes are, beside shuffled genes",
            _flags(
                features=folder / "features",
                gmt=folder / "markers.gmt",
                permutations=20,
                seed=seed,
                output=folder / "enrichment",
            ),
        ),
        Step(
            "site",
            "dashboard",
            "makes pages to look through all features",
            _flags(
                features=folder / "features",
                enrichment=folder / "enrichment",
                sae=autoencoder,
                output=folder / "site",
            ),
        ),
        Step(
            "joint",
            "train-joint",
            "learns one space for cells and for the words that describe them, from half of the cells",
            _flags(
                cells=cells,
                caption="a {cell_type} cell",
                cell_tower=encoder,
                text_tower=minilm_directory(),
                locking="LL",
                dims=sizes.joint_width,
                held_out_share=0.5,
                steps=sizes.joint_steps,
                seed=seed,
                output=folder / "joint",
            ),
        ),
        Step(
            "index",
            "index",
            "embeds the cells in that space and makes them searchable",
            _flags(cells=cells, joint=folder / "joint", calibrate="cell_type", output=folder / "index"),
        ),
        Step(
            "phrases",
            "phrases",
            "embeds what cells may be called",
            _flags(terms=folder / "cell_types.txt", joint=folder / "joint", output=folder / "phrases"),
        ),
    ]
