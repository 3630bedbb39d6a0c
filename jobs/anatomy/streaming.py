"""What the jobs that stream cells through an encoder (`embed`, `cache`) have in common at their end."""

import sys

from engine.streaming.inputs import Inputs
from engine.streaming.run import Encoding
from jobs.anatomy.run_record import Outcome
from storage.errors import InputError


def require_one_device(tensor_parallel: int) -> None:
    if tensor_parallel != 1:
        raise InputError(
            f"--tensor-parallel {tensor_parallel}: an encoder runs on one device in this version; give 1 and "
            "use --actors for more encoders side by side."
        )


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
