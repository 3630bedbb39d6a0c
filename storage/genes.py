"""Which gene a column of counts is: Ensembl ids, symbols, and what to do when several columns are one gene.

The store's gene index is the Ensembl id without its version suffix where one is known, else the name the file
uses. Ids come from a column of `var`, from the index, or through a table the user gives (`GeneTable`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from storage.gene_tables import GeneTable

# Ensembl stable gene ids: species letters, G, digits; `ENSGR` are the Y copies of the pseudoautosomal regions
# in releases before 76. GENCODE appends `_PAR_Y` to the id of the X copy for the same genes.
_ENSEMBL_ID = re.compile(r"(ENS[A-Z]*G\d+|ENSGR\d+)(\.\d+)?(_PAR_Y)?")
ENSEMBL_ID_COLUMNS = (
    "ensembl_id",
    "gene_ids",
    "gene_id",
    "feature_id",
    "ensembl_gene_id",
    "ensembl",
    "ensembl_ids",
    "ensemblid",
    "gene_stable_id",
    "id",
)
GENE_NAME_COLUMNS = (
    "gene_name",
    "gene_names",
    "gene_symbol",
    "gene_symbols",
    "feature_name",
    "symbol",
    "name",
)
# A column is one of Ensembl ids when most of what it holds is; spike-ins and transgenes may share it.
_MOSTLY = 0.5


def without_version(name: str) -> str:
    """`ENSG00000000003.15` -> `ENSG00000000003`; anything that is not an Ensembl gene id stays as it is."""
    found = _ENSEMBL_ID.fullmatch(name)
    return found.group(1) if found else name


def is_ensembl_id(name: str) -> bool:
    return _ENSEMBL_ID.fullmatch(name) is not None


def names_of(column: pd.Series[Any] | pd.Index[Any]) -> list[str]:
    """A column as strings; missing values (None, NaN, "nan", blanks) become ""."""
    strings = ["" if name is None or name is pd.NA or name != name else str(name).strip() for name in column]
    return ["" if name in ("nan", "NaN", "None", "<NA>") else name for name in strings]


@dataclass
class GeneReport:
    """What became of the columns of one file; every count is a number of columns."""

    n_columns: int
    id_column: str | None
    """Column of `var` the ids came from, `index`, or None when nothing in the file looks like Ensembl ids."""
    n_genes: int = 0
    """Genes left after columns of one gene are merged."""
    n_ensembl: int = 0
    n_missing: int = 0
    """Columns without an id, kept under their own name."""
    n_versions_stripped: int = 0
    n_exact_duplicates: int = 0
    """Columns whose id, as written in the file, occurred before."""
    n_merged: int = 0
    """Columns whose counts are added to those of an earlier column of the same gene."""
    merged_examples: list[str] = field(default_factory=list)
    by_table: dict[str, int] = field(default_factory=dict)
    """With --genes: columns found by symbol, previous, alias; ambiguous and unmatched ones."""
    unmatched_examples: list[str] = field(default_factory=list)

    def text(self) -> str:
        source = f"ids from {self.id_column}" if self.id_column else "no id column"
        parts = [
            f"{self.n_columns:,} columns -> {self.n_genes:,} genes ({source})",
            f"{self.n_ensembl:,} Ensembl",
        ]
        if self.n_versions_stripped:
            parts.append(f"{self.n_versions_stripped:,} version suffixes stripped")
        if self.n_missing:
            parts.append(f"{self.n_missing:,} without an id, kept under their name")
        if self.n_merged:
            parts.append(f"{self.n_merged:,} summed into another column ({', '.join(self.merged_examples)})")
        parts += [f"{count:,} by {how}" for how, count in self.by_table.items() if count]
        return "; ".join(parts)


@dataclass
class Genes:
    """The genes of one file: `var` has one row a gene; column j of the counts belongs to gene
    `of_column[j]`.
    """

    var: pd.DataFrame
    of_column: npt.NDArray[np.int32]
    report: GeneReport

    @property
    def merges(self) -> bool:
        return len(self.var) < len(self.of_column)


def find_id_column(var: pd.DataFrame) -> str | None:
    """The column of `var` (or `index`) that holds Ensembl ids, judged by its values; None when there is
    none.
    """
    by_name = {str(column).lower(): str(column) for column in var.columns}
    for name in ENSEMBL_ID_COLUMNS:
        if name in by_name and _mostly_ensembl(names_of(var[by_name[name]])):
            return by_name[name]
    return "index" if _mostly_ensembl(names_of(var.index)) else None


def _mostly_ensembl(names: Sequence[str]) -> bool:
    filled = [name for name in names if name]
    return bool(filled) and sum(map(is_ensembl_id, filled)) >= _MOSTLY * len(filled)


def gene_names(var: pd.DataFrame, ids: Sequence[str]) -> list[str]:
    """The symbol of each column: a symbol column of `var`, else the index, else the id."""
    by_name = {str(column).lower(): str(column) for column in var.columns}
    column = next((by_name[name] for name in GENE_NAME_COLUMNS if name in by_name), None)
    names = names_of(var.index if column is None else var[column])
    return [name or gene for name, gene in zip(names, ids, strict=True)]


def resolve(var: pd.DataFrame, id_column: str | None, table: GeneTable | None = None) -> Genes:
    """Ids, merged columns and the `var` of the store for one file.

    `id_column` is a column of `var`, "index", or None (names of the index are used as they are, through
    `table` when there is one). Nothing is refused here: `storage.validation` judges the report.
    """
    own_names = names_of(var.index)
    stated = own_names if id_column in (None, "index") else names_of(var[id_column])
    report = GeneReport(len(stated), id_column)
    report.n_exact_duplicates = len(stated) - stated.count("") - len(set(stated) - {""})
    report.n_versions_stripped = sum(without_version(name) != name for name in stated)
    ids = [without_version(name) for name in stated]
    if table is not None:
        ids = _through_table(ids, own_names, gene_names(var, own_names), table, report)
    report.n_missing = ids.count("")
    ids = [gene or own or f"unnamed_{j}" for j, (gene, own) in enumerate(zip(ids, own_names, strict=True))]
    report.n_ensembl = sum(map(is_ensembl_id, ids))

    of_column, unique = pd.factorize(np.asarray(ids, dtype=object))
    first = np.unique(of_column, return_index=True)[1]
    times = Counter(ids)
    report.n_genes, report.n_merged = len(unique), len(ids) - len(unique)
    report.merged_examples = [f"{gene} x{count}" for gene, count in times.most_common(3) if count > 1]
    return Genes(_store_var(var, ids, first), of_column.astype(np.int32), report)


def _through_table(
    ids: list[str], own_names: list[str], symbols: list[str], table: GeneTable, report: GeneReport
) -> list[str]:
    """Fill in ids the file does not know: by the id column's own words, then the index, then the symbol."""
    counts: Counter[str] = Counter()
    resolved = []
    for names in zip(ids, own_names, symbols, strict=True):
        gene = next((without_version(name) for name in names if is_ensembl_id(name)), "")
        how = "ensembl_id"
        if not gene:
            gene, how = table.find(names)
        counts[how] += 1
        if not gene and len(report.unmatched_examples) < 5:
            report.unmatched_examples.append(names[1] or names[2])
        resolved.append(gene)
    report.by_table = dict(counts)
    return resolved


def _store_var(var: pd.DataFrame, ids: list[str], first: npt.NDArray[np.intp]) -> pd.DataFrame:
    """All columns of the file in their order, indexed by id; the row of the first column stands for a
    gene.
    """
    names, own_names = gene_names(var, ids), names_of(var.index)
    out = var.copy()
    out.columns = [str(column) for column in var.columns]
    if "gene_name" not in out.columns:
        out["gene_name"] = names
    if own_names != ids and own_names != names:
        out["var_name"] = own_names  # the file's own index would be lost otherwise
    out.index = pd.Index(ids, dtype=object, name=var.index.name if own_names == ids else None)
    return out.iloc[first]


def union_of_genes(tables: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, list[npt.NDArray[np.int32]]]:
    """The genes of all files in order of first appearance, and for each file the union's row of each of
    its genes.

    Where files disagree about a column of `var`, the first file that has the gene decides.
    """
    ids = pd.Index(np.concatenate([table.index.to_numpy(dtype=object) for table in tables])).unique()
    rows = [ids.get_indexer(pd.Index(table.index)).astype(np.int32) for table in tables]
    if len(tables) == 1:
        return tables[0], rows
    together = pd.concat(tables, axis=0, join="outer", sort=False)
    union = together[~together.index.duplicated()].reindex(ids)
    return union, rows
