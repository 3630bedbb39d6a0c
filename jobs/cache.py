"""`syncytium cache`: what an encoder holds at chosen hook points, token by token, for SAE training."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jobs.anatomy import JobOptions, Outcome, ProgressLine, comma_separated, launch
from storage.errors import InputError


@dataclass(kw_only=True)
class Options(JobOptions):
    """Write the activations of a store's cells at one or more hook points: genes' tokens only, no padding."""

    cells: str
    """Cell store, as `ingest` writes it."""
    model: str
    """Encoder directory: official Tahoe-x1 or Geneformer as downloaded, or one of ours."""
    hooks: str
    """Hook points, comma separated: embed, resid_pre_I, attn_out_I, mlp_out_I, resid_post_I, final."""
    tokens_per_cell: int | None = None
    """Keep a random sample of so many tokens of each cell (all of them are encoded). Default: keep all."""
    max_tokens: int | None = None
    """Tokens encoded of a longer cell. Default: the model's own limit."""
    shard_tokens: int = 262_144
    """Most tokens of a shard. Smaller ones let more actors share a small store and lose less to a kill."""
    special_tokens: bool = False
    """Keep <cls> and its like too."""
    precision: Literal["fp32", "bf16", "fp16", "fp8"] = "bf16"
    """What is stored. fp8: e4m3 with one scale a token."""
    compute: Literal["fp32", "bf16"] = "fp32"
    """What the encoder computes in."""
    actors: int | None = None
    """At most so many encoders at once. Default: as many as the cluster has, or will be given, room for."""
    threads: int = 1
    """CPU threads of each encoder, or of each process of a shared one."""
    batch_tokens: int = 8192
    """Budget of a packed batch. Large encoders on a GPU want more, say 32768."""
    tensor_parallel: int = 1
    """GPUs that share one encoder; on a cluster without GPUs, processes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag, value in (("tokens-per-cell", self.tokens_per_cell), ("shard-tokens", self.shard_tokens)):
            if value is not None and value < 1:
                raise InputError(f"--{flag} is {value}; it must be at least 1.")


def run(options: Options) -> Outcome:
    from engine.streaming.inputs import Inputs
    from engine.streaming.products.activations import ActivationProduct
    from engine.streaming.run import encode
    from engine.streaming.sizing import cache_size, gigabytes, require_room
    from jobs.anatomy.streaming import outcome_of, recipe_of, workers_of

    output = options.output_location
    workers = workers_of(options.address, options.actors, options.threads)
    inputs = Inputs.open(options.cells, options.model, options.max_cells)
    hooks = tuple(dict.fromkeys(comma_separated(options.hooks)))
    inputs.model.require_hooks(hooks)
    product = ActivationProduct(
        hooks=hooks,
        precision=options.precision,
        tokens_per_cell=options.tokens_per_cell,
        special_tokens=options.special_tokens,
        seed=options.seed,
        shard_tokens=options.shard_tokens,
        identity={"model": inputs.model.fingerprint, "store": inputs.store.dataset_id},
    )
    recipe = recipe_of(
        inputs,
        max_tokens=options.max_tokens,
        precision=options.compute,
        seed=options.seed,
        batch_tokens=options.batch_tokens,
        tensor_parallel=options.tensor_parallel,
    )
    expected = cache_size(inputs, product, recipe)
    print(
        f"cache: about {expected.tokens:,} tokens at {len(hooks)} hook points, {gigabytes(expected.size)}",
        file=sys.stderr,
    )
    require_room(output, expected.size)
    encoding = encode(
        inputs,
        product,
        output,
        recipe=recipe,
        workers=workers,
        overwrite=options.overwrite,
        report=ProgressLine("cache"),
    )
    outcome = outcome_of(encoding, inputs)
    stored = sum(record.facts["n_tokens"] for record in encoding.snapshot.members)
    outcome.counts_out = {"tokens": stored, "hooks": len(hooks), "bytes": encoding.snapshot.size}
    outcome.facts |= {"expected_tokens": expected.tokens, "expected_bytes": expected.size}
    return outcome


def main(argv: Sequence[str] | None = None) -> int:
    return launch("cache", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
