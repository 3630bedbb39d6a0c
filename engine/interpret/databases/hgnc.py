"""Gene names by HGNC: every id and name a source uses, to the approved symbol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from engine.interpret.databases.delimited import Format, Layout, read_rows
from engine.interpret.databases.intake import Intake
from storage.errors import InputError
from storage.gene_tables import UNMATCHED, GeneTable

TABLE = Format(
    "HGNC's gene table",
    (
        Layout(
            "54 columns",
            (
                "hgnc_id",
                "symbol",
                "status",
                "prev_symbol",
                "alias_symbol",
                "ensembl_gene_id",
                "entrez_id",
            ),
        ),
    ),
    quoted=True,
    comment="",
)


class Gene(NamedTuple):
    """`found_by`: hgnc_id, ensembl_id, ncbi_id, symbol, previous, alias; `unmatched` or `ambiguous` for a
    gene that keeps the name its source gives it.
    """

    gene: str
    hgnc_id: str
    ensembl_id: str
    ncbi_id: str
    found_by: str


class GeneNames:
    """Names of genes to approved symbols. Without HGNC's table (`none`) every gene keeps its name.

    Ids win over names; a current symbol over a previous one, a previous one over an alias; a name that stands
    for two genes is ambiguous and kept as it is.
    """

    def __init__(self, genes: Sequence[Gene], table: GeneTable) -> None:
        self._genes = {gene.hgnc_id: gene for gene in genes}
        self._table = table
        self._found: dict[tuple[str, ...], Gene] = {}

    @classmethod
    def none(cls) -> GeneNames:
        return cls([], GeneTable({}, "none"))

    @classmethod
    def read(cls, path: Path) -> GeneNames:
        """`hgnc_complete_set.txt` or `non_alt_loci_set.txt`. Raises InputError for another layout."""
        rows = [row for row in read_rows(path, TABLE, Intake()) if row[2] == "Approved"]
        if not rows:
            raise InputError(f"{path}: no gene with status Approved; download it again.")
        ids, symbols, _, previous, aliases, ensembl, ncbi = zip(*rows, strict=True)
        genes = [Gene(s, i, e, n, "") for i, s, e, n in zip(ids, symbols, ensembl, ncbi, strict=True)]
        columns: dict[str, Iterable[str]] = {
            "hgnc_id": ids,
            "ensembl_id": ensembl,
            "ncbi_id": [number and f"NCBI:{number}" for number in ncbi],
            "symbol": symbols,
            "previous": previous,
            "alias": aliases,
        }
        return cls(genes, GeneTable.of(ids, columns, str(path)))

    def __len__(self) -> int:
        return len(self._genes)

    def find(self, names: tuple[str, ...]) -> Gene:
        """The gene of these names, ids first; the last name where none is known."""
        found = self._found.get(names)
        if found is None:
            hgnc_id, how = self._table.find(names)
            gene = self._genes.get(hgnc_id)
            found = _as_named(names, how) if gene is None else gene._replace(found_by=how)
            self._found[names] = found
        return found


def _as_named(names: tuple[str, ...], reason: str) -> Gene:
    """A gene no table knows, with the ids its source gives."""
    starts = ("HGNC:", "ENSG", "NCBI:")
    hgnc, ensembl, ncbi = (next((name for name in names if name.startswith(s)), "") for s in starts)
    return Gene(names[-1], hgnc, ensembl, ncbi.removeprefix("NCBI:"), reason or UNMATCHED)


def unmapped_table(found: Counter[Gene]) -> pd.DataFrame:
    """name, reason, rows of the genes that kept their name; most frequent first."""
    rows = [
        (gene.gene, gene.found_by, count)
        for gene, count in found.items()
        if gene.found_by in ("unmatched", "ambiguous")
    ]
    rows.sort(key=lambda row: (-row[2], row[0]))
    return pd.DataFrame(rows, columns=["name", "reason", "rows"])
