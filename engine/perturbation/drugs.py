"""Drugs as numbers: a fingerprint or an embedding of each, from a table that the user gives.

Legend: N drugs, P numbers of a drug.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from engine.perturbation.rank_sum import Array
from storage.errors import InputError
from storage.locations import Location

NAME, BITS = "drug", "fingerprint"


@dataclass(frozen=True)
class Drugs:
    """Name -> vector [P] of length sqrt(P), so that fingerprints and embeddings of any scale are as large."""

    vectors: Mapping[str, Array]

    @classmethod
    def read(cls, path: str) -> Drugs:
        """A table (.parquet, .csv, .tsv) with a column `drug`, and either a column `fingerprint` of zeros and
        ones or columns of numbers. Raises InputError, naming the column or drug, when it is not one.
        """
        table = _table(path)
        if NAME not in table.columns:
            raise InputError(f"{path}: no column {NAME!r}; it has {', '.join(map(str, table.columns))}.")
        names = table[NAME].astype(str).tolist()
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not names:
            raise InputError(f"{path}: {f'drug {twice[0]} has two rows' if twice else 'no drugs'}.")
        values = _bits(path, table) if BITS in table.columns else _numbers(path, table.drop(columns=[NAME]))
        length = np.linalg.norm(values, axis=1)
        if not np.isfinite(values).all() or not (length > 0).all():
            bad = names[int(np.flatnonzero(~(np.isfinite(length) & (length > 0)))[0])]
            raise InputError(f"{path}: the vector of {bad} is all zeros or has missing values.")
        return cls(dict(zip(names, values / length[:, None] * np.sqrt(values.shape[1]), strict=True)))

    @property
    def dim(self) -> int:
        """P; 0 without drugs."""
        return len(next(iter(self.vectors.values()), ()))

    def __contains__(self, name: str) -> bool:
        return name in self.vectors

    def require_apart(self, genes: Sequence[str], where: str) -> None:
        """Raises InputError when a drug is called as a gene is: labels would be ambiguous."""
        both = sorted(set(genes) & set(self.vectors))
        if both:
            raise InputError(f"{where}: {', '.join(both[:5])} names a gene of the screen, not only a drug.")

    def and_those_of(self, path: str) -> Drugs:
        """With further drugs of a table. Raises InputError when their vectors are of another width."""
        more = Drugs.read(path)
        if more.dim != self.dim:
            raise InputError(f"{path}: {more.dim} numbers a drug; the model was trained with {self.dim}.")
        return Drugs({**self.vectors, **more.vectors})

    def of(self, targets: Sequence[tuple[str, ...]]) -> Array:
        """[conditions, P] the vector of each condition's drug; zeros without one.

        Raises InputError for a condition with two drugs, of which a model knows nothing.
        """
        found = np.zeros((len(targets), self.dim))
        for row, names in enumerate(targets):
            drugs = [name for name in names if name in self.vectors]
            if len(drugs) > 1:
                raise InputError(
                    f"{'+'.join(names)}: two drugs at once; a condition has one, with genes or without."
                )
            if drugs:
                found[row] = self.vectors[drugs[0]]
        return found

    def save(self, path: Path) -> None:
        vectors = np.stack(list(self.vectors.values()))
        names = json.dumps(list(self.vectors))
        save_file({"vectors": torch.from_numpy(vectors).float()}, path, metadata={"drugs": names})

    @classmethod
    def load(cls, path: Path) -> Drugs:
        """What `save` wrote."""
        with safe_open(path, framework="np") as stored:
            names, vectors = json.loads(stored.metadata()["drugs"]), stored.get_tensor("vectors")
        return cls(dict(zip(names, vectors.astype(np.float64), strict=True)))


NO_DRUGS = Drugs({})


def _table(path: str) -> pd.DataFrame:
    try:
        content = io.BytesIO(Location.of(path).read())
        if path.endswith(".parquet"):
            return pd.read_parquet(content)
        return pd.read_csv(content, sep="\t" if path.endswith((".tsv", ".txt")) else ",", dtype={BITS: str})
    except (OSError, ValueError) as error:
        raise InputError(f"--drug-vectors {path}: cannot be read as a table ({error}).") from error


def _bits(path: str, table: pd.DataFrame) -> Array:
    texts = table[BITS].astype(str).tolist()
    for name, text in zip(table[NAME], texts, strict=True):
        if len(text) != len(texts[0]) or set(text) - {"0", "1"}:
            raise InputError(
                f"{path}: the {BITS} of {name} is not {len(texts[0])} zeros and ones, as the first drug's is."
            )
    return np.array([[float(bit) for bit in text] for text in texts])


def _numbers(path: str, columns: pd.DataFrame) -> Array:
    strange = [str(name) for name, kind in columns.dtypes.items() if kind.kind not in "iufb"]
    if strange or not len(columns.columns):
        raise InputError(
            f"{path}: {f'column {strange[0]} holds no numbers' if strange else 'no columns of numbers'}; "
            f"expected {NAME} and a vector, or {NAME} and {BITS}."
        )
    return columns.to_numpy(dtype=np.float64)
