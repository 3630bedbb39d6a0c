"""A user's table of gene names: Ensembl id, symbol, previous symbols, aliases.

HGNC's complete set and custom downloads, BioMart exports (one row per synonym) and plain two-column
tables are read as they are; TSV, CSV (also gzipped) and parquet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from storage.errors import InputError

_ENSEMBL = re.compile(r"ENS[A-Z]*G\d+(\.\d+)?")
# Column names as they occur, lower case without punctuation: `Approved symbol` -> `approvedsymbol`.
_COLUMNS = {
    "id": ("ensemblgeneid", "ensemblid", "genestableid", "geneid", "ensembl", "featureid", "id"),
    "symbol": ("symbol", "approvedsymbol", "genesymbol", "genename", "hgncsymbol", "featurename", "name"),
    "previous": ("prevsymbol", "previoussymbols", "previoussymbol"),
    "alias": ("aliassymbol", "aliassymbols", "alias", "aliases", "genesynonym", "synonyms"),
}
AMBIGUOUS, UNMATCHED = "ambiguous", "unmatched"


@dataclass(frozen=True)
class GeneTable:
    """Names to Ensembl ids. A current symbol wins over a previous one, a previous one over an alias.

    A name that stands for two genes at its level is ambiguous and maps to nothing: guessing would add the
    counts of one gene to another. Upper and lower case are different: `Actb` is the mouse gene, `ACTB`
    the human one.
    """

    levels: dict[str, dict[str, str]]
    """symbol, previous, alias -> {name: Ensembl id, or "" when ambiguous}."""
    source: str

    @classmethod
    def read(cls, path: str | Path) -> GeneTable:
        """Raises InputError when the file cannot be read or has no column of ids or of symbols."""
        frame = _read_frame(Path(path))
        columns = _named_columns(frame) or _columns_by_content(frame)
        if columns is None:
            raise InputError(
                f"{path}: no Ensembl id and symbol columns among {[str(name) for name in frame.columns]}; "
                "expected HGNC's set (symbol, prev_symbol, alias_symbol, ensembl_gene_id) or 2 columns."
            )
        ids = [re.sub(r"\.\d+$", "", name.strip()) for name in frame[columns["id"]]]
        levels = ("symbol", "previous", "alias")
        named = {level: frame[columns[level]] for level in levels if level in columns}
        return cls.of(ids, named, str(path))

    @classmethod
    def of(cls, ids: Sequence[str], columns: Mapping[str, Iterable[str]], source: str) -> GeneTable:
        """From columns of names, parallel to `ids`; an earlier column wins over a later one. Previous symbols
        and aliases may come several to a cell.
        """
        several = ("previous", "alias")
        levels = {level: _level(ids, names, level in several) for level, names in columns.items()}
        return cls(levels, source)

    def find(self, names: Iterable[str]) -> tuple[str, str]:
        """(Ensembl id, level it was found at) of the first name that is known; ("", reason) when none is."""
        reason = UNMATCHED
        for name in dict.fromkeys(names):
            for level, known in self.levels.items():
                if name in known:
                    if known[name]:
                        return known[name], level
                    reason = AMBIGUOUS
                    break
        return "", reason


def _read_frame(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise InputError(f"{path}: the gene table does not exist.")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path).astype("string").fillna("").astype(object)
        separator = "," if ".csv" in path.suffixes else "\t"
        frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
        if any(_ENSEMBL.fullmatch(str(name)) for name in frame.columns):
            frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, header=None)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as a gene table ({error}); give TSV, CSV or parquet."
        ) from error
    return frame


def _named_columns(frame: pd.DataFrame) -> dict[str, str] | None:
    plain = {re.sub(r"[^a-z0-9]", "", str(name).lower()): name for name in frame.columns}
    found = {}
    for role, names in _COLUMNS.items():
        column = next((plain[name] for name in names if name in plain), None)
        if column is not None:
            found[role] = column
    if "id" not in found or "symbol" not in found or not _holds_ids(frame[found["id"]]):
        return None
    return found


def _columns_by_content(frame: pd.DataFrame) -> dict[str, str] | None:
    """A table of two columns, one of which holds Ensembl ids, needs no header."""
    if frame.shape[1] != 2:
        return None
    first, second = frame.columns
    if _holds_ids(frame[first]):
        return {"id": first, "symbol": second}
    return {"id": second, "symbol": first} if _holds_ids(frame[second]) else None


def _holds_ids(column: Iterable[str]) -> bool:
    filled = [name for name in column if name]
    return bool(filled) and sum(bool(_ENSEMBL.fullmatch(name)) for name in filled) > len(filled) / 2


def _level(ids: Sequence[str], column: Iterable[str], several: bool) -> dict[str, str]:
    """Name -> id. Previous symbols and aliases come several to a cell, `A|B` (HGNC's files) or `A, B`
    (its site).
    """
    known: dict[str, str] = {}
    for gene, cell in zip(ids, column, strict=True):
        for name in re.split(r"[|,;]", cell) if several else (cell,):
            name = name.strip().strip('"')
            if name and gene:
                known[name] = gene if known.get(name, gene) == gene else ""
    return known
