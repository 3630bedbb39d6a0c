"""The tables of an annotated file, by CellWhisperer's rules: what CELLxGENE takes, in its types."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

MOST_CATEGORIES = 500
DATE = "series_submission_date"
_YEAR_SECONDS = 365.25 * 24 * 60 * 60
_ORGANISMS = {"mus musculus": ("mouse", "NCBITaxon:10090"), "mouse": ("mouse", "NCBITaxon:10090")}
_HUMAN = ("human", "NCBITaxon:9606")


def shown_obs(obs: pd.DataFrame) -> pd.DataFrame:
    """Columns as CELLxGENE takes them: text as categories, those with more than 500 left out; whole numbers
    int32, others float32. Cell names are made unique.
    """
    shown = {}
    for name in obs.columns:
        column = _shown(obs[name])
        too_many = (
            isinstance(column.dtype, pd.CategoricalDtype) and len(column.cat.categories) > MOST_CATEGORIES
        )
        if not too_many or name == DATE:
            shown[str(name)] = column.array
    if DATE in obs.columns:
        shown[f"{DATE}_cont"] = years(obs[DATE])
    index = pd.Index(unique_names(obs.index.astype(str)), dtype=object)
    return pd.DataFrame(shown, index=index)


def shown_var(var: pd.DataFrame, normaliser_G: npt.NDArray[np.float64]) -> pd.DataFrame:
    """Gene table with unique `gene_name` (a later gene of the same name gets its id behind it) and
    `log1p_normalizer`.
    """
    columns = {str(name): _shown(var[name]) for name in var.columns}
    shown = pd.DataFrame({n: c.astype(object) if _is_text(c) else c for n, c in columns.items()})
    names = var["gene_name"].astype(str)
    repeated = names.duplicated().to_numpy()
    shown["gene_name"] = np.where(repeated, names + "_" + var.index.astype(str), names)
    shown["log1p_normalizer"] = normaliser_G.astype(np.float32)
    shown.index = pd.Index(unique_names(var.index.astype(str)), dtype=object)
    return shown


def years(dates: pd.Series[Any]) -> npt.NDArray[np.float32]:
    """Dates as years, such as 2019.5; missing ones are the mean."""
    when = pd.to_datetime(dates.astype(object), errors="coerce")
    seconds = (when - pd.Timestamp(0)).dt.total_seconds()
    found = (seconds / _YEAR_SECONDS + 1970).fillna((seconds / _YEAR_SECONDS + 1970).mean())
    result: npt.NDArray[np.float32] = found.to_numpy().astype(np.float32)
    return result


def organism_of(obs: pd.DataFrame) -> tuple[str, str]:
    """(name, ontology term) of the organism, from the obs column of that name; human where there is none."""
    if "organism" not in obs.columns or not len(obs):
        return _HUMAN
    return _ORGANISMS.get(str(obs["organism"].iloc[0]).lower(), _HUMAN)


def unique_names(names: pd.Index[Any]) -> list[str]:
    """Names, a repeated one with its number of occurrence behind it."""
    seen: dict[str, int] = {}
    found, taken = [], set(names)
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique = name
        while seen[name] > 1 and unique in taken:
            unique = f"{name}-{seen[name] - 1}"
            seen[name] += unique in taken
        taken.add(unique)
        found.append(unique)
    return found


def _shown(column: pd.Series[Any]) -> pd.Series[Any]:
    kind = column.dtype
    if isinstance(kind, pd.CategoricalDtype):
        return column.cat.rename_categories([str(value) for value in kind.categories])
    if pd.api.types.is_bool_dtype(kind):
        return column.astype("category").cat.rename_categories(str) if column.isna().any() else column
    if pd.api.types.is_integer_dtype(kind):
        fits = not column.isna().any() and bool(len(column) == 0 or abs(column).max() < 1 << 31)
        return column.astype(np.int32) if fits else column.astype("Float64").astype(np.float32)
    if pd.api.types.is_float_dtype(kind):
        return column.astype(np.float32)
    text = column.where(column.isna(), column.astype(str))
    return text.astype("category")


def _is_text(column: pd.Series[Any]) -> bool:
    return isinstance(column.dtype, pd.CategoricalDtype)
