"""All rules over one input file: what `check` reports and what `ingest` does first."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from storage.errors import InputError
from storage.genes import Genes
from storage.sources import Source, UnreadableSource, open_source
from storage.validation.cells import (
    empty_cell_findings,
    feature_findings,
    layout_findings,
    name_findings,
    name_hashes,
    non_genes,
    obs_findings,
)
from storage.validation.counts import choose_counts
from storage.validation.findings import FileReport, Finding
from storage.validation.genes import GeneChoices, identify_genes, vocabulary_findings


@dataclass(frozen=True)
class Choices(GeneChoices):
    """How a file is to be understood (the flags that `check` and `ingest` share)."""

    counts: str = "auto"
    """`auto`, `X`, `raw` or `layer:NAME`."""


@dataclass(frozen=True)
class Vocabulary:
    """The gene ids a model knows, and the least share of counts they must cover."""

    ids: Collection[str]
    least: float = 0.5


@dataclass
class Survey:
    """One file as validation understood it; picklable, made without reading the whole matrix."""

    report: FileReport
    layout: str = ""
    by_rows: bool = True
    genes: Genes | None = None
    obs_head: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The obs columns without rows: their types and categories."""
    name_hashes: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))

    @property
    def path(self) -> str:
        return self.report.path


def survey(path: str, choices: Choices, vocabulary: Vocabulary | None = None) -> Survey:
    """Judge one file by its metadata and samples of its values: seconds, whatever its size.

    A file that cannot be read is a finding, not an exception.
    """
    result = Survey(FileReport(path))
    try:
        with open_source(path) as source:
            _survey(source, choices, vocabulary, result)
    except UnreadableSource as error:
        result.report.add([Finding("error", "unreadable", "file", 0, _without_path(error, path), _COPY_FIX)])
    except InputError as error:
        result.report.add([Finding("error", "no-such-input", "file", 0, _without_path(error, path))])
    return result


def _without_path(error: InputError, path: str) -> str:
    """Reports name the path themselves."""
    return str(error).removeprefix(f"{path}: ")


_COPY_FIX = "Copy or download the file again and compare its checksum."


def _survey(source: Source, choices: Choices, vocabulary: Vocabulary | None, result: Survey) -> None:
    report = result.report
    report.format, report.n_cells = source.format, source.n_cells
    if source.n_cells == 0:
        report.add([Finding("error", "zero-cells", "obs", 0, "the file has no cells", "Nothing to ingest.")])
        return
    sampled = choose_counts(source, choices.counts)
    report.add(sampled.findings)
    report.add(obs_findings(source))
    report.add(layout_findings(source))
    result.obs_head = source.obs.rows(0, 0)
    result.name_hashes = name_hashes(source)
    report.add(name_findings(result.name_hashes))
    # Genes can be judged without counts, so a file with two faults is told both.
    counts = sampled.counts or next(iter(source.matrices), "")
    if not counts:
        return
    matrix, var = source.matrices[counts], source.genes_frame(counts)
    report.counts, report.n_columns = sampled.counts, matrix.shape[1]
    result.layout, result.by_rows = matrix.layout, matrix.by_rows
    genes, findings = identify_genes(var, choices)
    report.add(findings)
    # As Cell Ranger's own readers do: antibodies and peaks of a 10x file are not genes.
    from_10x = source.format.startswith("10x")
    report.add(feature_findings(var, dropped=from_10x))
    if genes is not None:
        result.genes = _without(genes, non_genes(var)) if from_10x else genes
        report.genes = genes.report.text()
    if sampled.counts:
        report.add(empty_cell_findings(matrix.empty_cells(), source.n_cells, sampled.counts))
    if vocabulary is not None and genes is not None and len(sampled.column_sums):
        sums = sampled.column_sums
        report.vocabulary, found = vocabulary_findings(genes, sums, vocabulary.ids, vocabulary.least)
        report.add(found)


def _without(genes: Genes, dropped: npt.NDArray[Any]) -> Genes:
    """Leave out columns; genes that had only those disappear, and `of_column` is -1 there."""
    if not dropped.any():
        return genes
    kept = np.zeros(len(genes.var), dtype=bool)
    kept[genes.of_column[~dropped]] = True
    renumbered = np.where(kept, np.cumsum(kept) - 1, -1)
    of_column = np.where(dropped, -1, renumbered[genes.of_column]).astype(np.int32)
    return Genes(genes.var[kept], of_column, genes.report)
