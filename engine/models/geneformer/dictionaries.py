"""The dictionaries beside a Geneformer model: token ids, gene medians and aliases of gene ids.

Each comes as JSON, parquet (two columns: key, value) or the official pickle, under its official name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from engine.models.errors import ModelError
from engine.models.foreign import load_dictionary
from engine.models.weights import read_json

# Our own JSON first: a directory that `save` wrote over a download holds the newer dictionaries there.
SUFFIXES = (".json", ".parquet", ".pkl", ".pickle")
# Official names: token_dictionary_gc95M.pkl, gene_median_dictionary_gc30M.pkl,
# ensembl_mapping_dict_gc104M.pkl.
TOKENS, MEDIANS, MAPPING = "token_dictionary", "gene_median", "ensembl_mapping"


@dataclass(frozen=True)
class Dictionaries:
    """tokens: gene or special -> token id. medians: gene -> non-zero median. mapping: alias -> gene."""

    tokens: dict[str, int]
    medians: dict[str, float]
    mapping: dict[str, str]


def read_dictionaries(directory: Path) -> Dictionaries:
    """The dictionaries of a model directory; the mapping may be missing (ids then stand for themselves)."""
    found = {name: _find(directory, name) for name in (TOKENS, MEDIANS, MAPPING)}
    for name in (TOKENS, MEDIANS):
        if found[name] is None:
            raise ModelError(
                f"{directory}: {name}*.json, .parquet or .pkl is missing; put the dictionary that belongs to "
                "the model beside config.json"
            )
    raw = {name: _read(path) if path else {} for name, path in found.items()}
    try:
        return Dictionaries(
            tokens={str(gene): int(token) for gene, token in raw[TOKENS].items()},
            medians={str(gene): float(median) for gene, median in raw[MEDIANS].items()},
            mapping={str(alias): str(gene) for alias, gene in raw[MAPPING].items()},
        )
    except (TypeError, ValueError) as error:
        raise ModelError(f"{directory}: a dictionary holds values of the wrong kind ({error})") from error


def _find(directory: Path, name: str) -> Path | None:
    for suffix in SUFFIXES:
        found = sorted(path for path in directory.glob(f"{name}*") if path.suffix == suffix)
        if len(found) > 1:
            raise ModelError(
                f"{directory}: {' and '.join(path.name for path in found)} are both there; keep the one that "
                "belongs to the model"
            )
        if found:
            return found[0]
    return None


def _read(path: Path) -> dict[Any, Any]:
    if path.suffix == ".json":
        return read_json(path)
    if path.suffix == ".parquet":
        try:
            table = pyarrow.parquet.read_table(path)
        except pyarrow.ArrowInvalid as error:
            raise ModelError(f"{path}: not valid parquet ({error})") from error
        if table.num_columns != 2:
            raise ModelError(f"{path}: expected two columns (key, value), found {table.column_names}")
        return dict(zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True))
    return load_dictionary(path)
