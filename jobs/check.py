"""`syncytium check`: what is wrong with count files, where, how much, and how to fix it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jobs.anatomy import BAD_INPUT, DONE, JobOptions, Outcome, launch
from storage.errors import InputError


@dataclass(kw_only=True)
class Options(JobOptions):
    """Report on count files: counts, ids, cells, layouts, and what a model knows of their genes.

    Exit code 2 when there is an error that would stop `ingest`. --output writes the report as JSON.
    """

    files: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """h5ad, 10x h5, 10x folder with matrix.mtx, or AnnData zarr."""
    model: str | None = None
    """Encoder directory: also report the share of counts on genes of its vocabulary."""
    min_vocabulary_match: float = 0.5
    """With --model: the least share of counts that its vocabulary must know."""
    full: bool = False
    """Look at every value, as `ingest` does, instead of samples spread over the file."""
    gene_id_key: str = "auto"
    """As in `ingest`."""
    counts: str = "auto"
    """As in `ingest`."""
    genes: str | None = None
    """As in `ingest`."""
    duplicate_genes: Literal["auto", "refuse", "sum"] = "auto"
    """As in `ingest`."""


def run(options: Options) -> Outcome:
    from engine.streaming.ingestion import check
    from storage.ingest import IngestOptions
    from storage.validation import Vocabulary

    if not options.files:
        raise InputError("no input files: name one or more (.h5ad, 10x .h5, a 10x mtx folder, .zarr).")
    choices = IngestOptions(
        gene_id_key=options.gene_id_key,
        counts=options.counts,
        duplicate_genes=options.duplicate_genes,
        genes=options.genes,
    ).choices()
    vocabulary = None
    if options.model is not None:
        from engine.streaming.vocabulary import gene_vocabulary
        from storage.checkpoints import local_copy

        ids = gene_vocabulary(local_copy(options.model))
        vocabulary = Vocabulary(ids, options.min_vocabulary_match)
    reports = check(options.files, choices, vocabulary, full=options.full, address=options.address)
    print("\n\n".join(report.text() for report in reports), flush=True)
    content = {"reports": [report.as_json() for report in reports]}
    if options.output:
        location = options.output_location
        location.put("", json.dumps(content, indent=2).encode())
    n_errors = sum(len(report.errors) for report in reports)
    return Outcome(
        counts_in={"files": len(reports), "cells": sum(report.n_cells for report in reports)},
        counts_out={"errors": n_errors, "findings": sum(len(report.findings) for report in reports)},
        facts=content,
        exit_code=BAD_INPUT if n_errors else DONE,
        writes_record=False,
    )


def main(argv: Sequence[str] | None = None) -> int:
    return launch("check", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
