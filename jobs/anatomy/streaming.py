"""What the jobs that stream cells through an encoder have in common."""

import sys
from typing import TYPE_CHECKING, Protocol

from engine.models import Precision
from engine.streaming.inputs import Inputs
from engine.streaming.recipe import Recipe, Workers
from engine.streaming.run import Encoding
from jobs.anatomy.run_record import Outcome
from storage.errors import InputError

if TYPE_CHECKING:
    from engine.interpret.inputs import EncodedInputs


class SubjectFlags(Protocol):
    """Flags of the jobs that look into an encoder through an autoencoder (`steer`, `attribute`)."""

    cells: str
    model: str
    sae: str
    hook: str | None
    label: str | None
    max_cells: int | None
    max_tokens: int | None
    precision: Precision
    batch_tokens: int
    seed: int


def subject_of(options: SubjectFlags) -> "tuple[EncodedInputs, Recipe]":
    """What is looked into, and how its cells are encoded. Raises InputError when they do not go together."""
    from engine.interpret.inputs import EncodedInputs

    inputs = EncodedInputs.open(
        options.sae,
        options.cells,
        options.model,
        hook=options.hook,
        label=options.label,
        max_cells=options.max_cells,
    )
    recipe = recipe_of(
        inputs.stream,
        max_tokens=options.max_tokens,
        precision=options.precision,
        seed=options.seed,
        batch_tokens=options.batch_tokens,
        tensor_parallel=1,
    )
    return inputs, recipe


def workers_of(address: str | None, actors: int | None, threads: int) -> Workers:
    """Raises InputError for numbers that mean nothing."""
    for flag, value in (("actors", actors), ("threads", threads)):
        if value is not None and value < 1:
            raise InputError(f"--{flag} is {value}; it must be at least 1.")
    return Workers(address, actors, threads)


def recipe_of(
    inputs: Inputs,
    *,
    max_tokens: int | None,
    precision: Precision,
    seed: int,
    batch_tokens: int,
    tensor_parallel: int,
) -> Recipe:
    """Raises InputError for a limit, a budget or a number of devices that the model cannot be run with."""
    inputs.model.require_tensor_parallel(tensor_parallel)
    if batch_tokens < 1:
        raise InputError(f"--batch-tokens is {batch_tokens}; it must be at least 1.")
    return Recipe(inputs.model.token_limit(max_tokens), precision, seed, batch_tokens, tensor_parallel)


def outcome_of(encoding: Encoding, inputs: Inputs) -> Outcome:
    """Counts in, throughput and facts of a stream; warnings go to stderr and into the facts."""
    for warning in inputs.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    seconds, spent = max(encoding.seconds, 1e-9), encoding.spent
    shares = {"useful_token_share": spent.useful_token_share, "encoder_busy_share": encoding.busy_share}
    return Outcome(
        lineage=encoding.snapshot.lineage_id,
        counts_in={"cells": inputs.n_cells, "genes": inputs.store.n_genes},
        throughput={
            "cells_per_second": round(spent.cells / seconds, 3),
            "tokens_per_second": round(spent.tokens / seconds, 1),
            **{name: round(share, 4) for name, share in shares.items() if share is not None},
        },
        facts={
            "gene_match": inputs.match.report(),
            "warnings": inputs.warnings,
            "members": encoding.n_members,
            "members_resumed": encoding.n_resumed,
            "encoder_seconds": round(spent.encoder_seconds, 3),
        },
        did_work=encoding.did_work,
        peak_memory_bytes=spent.peak_memory_bytes or None,
    )
