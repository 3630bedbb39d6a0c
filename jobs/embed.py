"""`syncytium embed`: one vector per cell (or per gene) of a cell store, by an encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jobs.anatomy import JobOptions, Outcome, ProgressLine, launch
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.streaming.inputs import ModelFacts
    from engine.streaming.products.product import Product


@dataclass(kw_only=True)
class Options(JobOptions):
    """Embed the cells of a store, by default in the model's own convention (Tahoe: L2-normalised final <cls>;
    Geneformer: mean of the second-to-last layer over genes; a joint model: unit vectors of its common space).
    """

    cells: str
    """Cell store, as `ingest` writes it."""
    model: str
    """Encoder directory: official Tahoe-x1 or Geneformer as downloaded, one of ours, or a joint model."""
    layer: int | None = None
    """Block whose output is pooled; negative counts from the end. Default: the model's convention."""
    pool: Literal["cls", "mean", "gene"] | None = None
    """cls or mean: one vector per cell. gene: one per gene, its mean over all cells, as parquet."""
    max_tokens: int | None = None
    """Tokens kept of a longer cell. Default: the model's own limit."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """What the encoder computes in."""
    actors: int | None = None
    """At most so many encoders at once. Default: as many as the cluster has, or will be given, room for."""
    threads: int = 1
    """CPU threads of each encoder, or of each process of a shared one."""
    batch_tokens: int = 8192
    """Budget of a packed batch. Large encoders on a GPU want more, say 32768."""
    tensor_parallel: int = 1
    """GPUs that share one encoder; on a cluster without GPUs, processes."""


def run(options: Options) -> Outcome:
    from engine.streaming.inputs import Inputs
    from engine.streaming.run import encode
    from jobs.anatomy.streaming import outcome_of, recipe_of, workers_of

    output = options.output_location
    workers = workers_of(options.address, options.actors, options.threads)
    inputs = Inputs.open(options.cells, options.model, options.max_cells)
    recipe = recipe_of(
        inputs,
        max_tokens=options.max_tokens,
        precision=options.precision,
        seed=options.seed,
        batch_tokens=options.batch_tokens,
        tensor_parallel=options.tensor_parallel,
    )
    product = _product(options, inputs.model)
    encoding = encode(
        inputs,
        product,
        output,
        recipe=recipe,
        workers=workers,
        overwrite=options.overwrite,
        report=ProgressLine("embed"),
    )
    outcome = outcome_of(encoding, inputs)
    if options.pool == "gene":
        outcome.counts_out = {"genes": encoding.snapshot.facts["n_genes"]}
    else:
        outcome.counts_out = {"cells": inputs.n_cells, "dimensions": encoding.snapshot.facts["width"]}
    return outcome


def _product(options: Options, model: "ModelFacts") -> "Product":
    from engine.streaming.joint_embeddings import joint_product
    from engine.streaming.products.embeddings import EmbeddingProduct
    from engine.streaming.products.genes import GeneEmbeddingProduct

    if model.joint is not None:
        if options.layer is not None or options.pool is not None:
            raise InputError(
                f"{options.model} is a joint model, which says itself what it pools: leave out --layer and "
                f"--pool, or give its cell tower alone, --model {options.model}/cell"
            )
        return joint_product(model)
    layer, pool = model.layer(options.layer), options.pool or model.default_pool
    if pool == "gene":
        return GeneEmbeddingProduct(model.hook_of(layer))
    if pool == "cls" and not model.has_cell_token:
        raise InputError(f"--pool cls: {options.model} has no cell token; use --pool mean.")
    return EmbeddingProduct(layer, pool)


def main(argv: Sequence[str] | None = None) -> int:
    return launch("embed", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
