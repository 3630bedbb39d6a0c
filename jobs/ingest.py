"""`syncytium ingest`: count files of any format to one cell store."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jobs.anatomy import JobOptions, Outcome, ProgressLine, comma_separated, launch


@dataclass(kw_only=True)
class Options(JobOptions):
    """Check count files and write them as one cell store: raw counts by cell, genes by Ensembl id."""

    files: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """h5ad, 10x h5, 10x folder with matrix.mtx, or AnnData zarr; several become one store in this order."""
    gene_id_key: str = "auto"
    """Column of var with gene ids, or `index`. Default: the column or index that holds Ensembl ids."""
    counts: str = "auto"
    """Where the raw counts are: X, raw or layer:NAME. Default: the first of them that holds counts."""
    genes: str | None = None
    """Table of symbols and Ensembl ids (HGNC's complete set, or two columns; TSV, CSV, parquet)."""
    duplicate_genes: Literal["auto", "refuse", "sum"] = "auto"
    """Columns of one gene: refuse, sum, or (auto) refuse only a repeated id in a complete id column."""
    min_genes: int = 0
    """Leave out cells with fewer genes than this."""
    obs_columns: str | None = None
    """Comma-separated columns of obs to keep. Default: all."""
    shard_cells: int = 131_072
    """Cells per member: the unit of work, retry and commit."""


def run(options: Options) -> Outcome:
    from engine.streaming.ingestion import ingest
    from storage.ingest import IngestOptions

    output = options.output_location
    chosen = IngestOptions(
        gene_id_key=options.gene_id_key,
        counts=options.counts,
        duplicate_genes=options.duplicate_genes,
        genes=options.genes,
        min_genes=options.min_genes,
        obs_columns=None if options.obs_columns is None else comma_separated(options.obs_columns),
        shard_cells=options.shard_cells,
        max_cells=options.max_cells,
        overwrite=options.overwrite,
    )
    done = ingest(options.files, str(output), chosen, address=options.address, report=ProgressLine("ingest"))
    for report in done.reports:
        for finding in report.findings:
            print(f"{report.path}: {finding.text()}", file=sys.stderr)
    facts = done.snapshot.facts
    return Outcome(
        lineage=done.snapshot.lineage_id,
        counts_in={"files": len(options.files), "cells": sum(report.n_cells for report in done.reports)},
        counts_out={"cells": facts["n_cells"], "genes": facts["n_genes"], "nnz": facts["nnz"]},
        throughput={
            "cells_per_second": round(done.cells / max(done.write_seconds + done.plan_seconds, 1e-9), 1)
        },
        facts={
            "reports": [report.as_json() for report in done.reports],
            "members": done.n_members,
            "members_resumed": done.n_resumed,
            "scan_seconds": round(done.plan_seconds, 3),
            "write_seconds": round(done.write_seconds, 3),
        },
        did_work=done.did_work,
        peak_memory_bytes=done.peak_memory_bytes,
    )


def main(argv: Sequence[str] | None = None) -> int:
    return launch("ingest", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
