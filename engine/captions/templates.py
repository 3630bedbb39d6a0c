"""Captions from columns of obs by template: "{cell_type} from {tissue}, {disease}"."""

from __future__ import annotations

from string import Formatter

import numpy as np
import pandas as pd

from storage.errors import InputError


def is_template(text: str) -> bool:
    """Whether a caption is a template rather than the name of a column."""
    return "{" in text or "}" in text


def columns_of(template: str) -> list[str]:
    """The columns a template names, in order, each once. Raises InputError for what is no template."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"caption template {template!r}: {error}.") from error
    named = [name for _, name, _, _ in parts if name is not None]
    if not all(named) or any(form or conversion for _, name, form, conversion in parts if name is not None):
        raise InputError(
            f"caption template {template!r}: expected the names of obs columns in braces and nothing else in "
            'them, e.g. "{cell_type} from {tissue}".'
        )
    return list(dict.fromkeys(name for name in named if name))


def render(template: str, obs: pd.DataFrame) -> pd.Series:
    """The caption of each row of obs; missing where one of its columns is missing or empty.

    Each combination of values is written once, however many cells have it.
    """
    columns = columns_of(template)
    values = pd.DataFrame({name: as_texts(obs[name]) for name in columns}, index=obs.index)
    complete = values.notna().all(axis=1)
    distinct = values[complete].drop_duplicates()
    written = pd.Series(
        [template.format(**dict(zip(columns, row, strict=True))) for row in distinct.itertuples(index=False)],
        index=pd.MultiIndex.from_frame(distinct) if columns else None,
        dtype=object,
    )
    found = pd.Series(np.full(len(obs), None, dtype=object), index=obs.index)
    if len(distinct):
        keys = pd.MultiIndex.from_frame(values[complete])
        found[complete.to_numpy()] = written.reindex(keys).to_numpy()
    return found


def as_texts(column: pd.Series) -> pd.Series:
    """A column's values as text without space around it; None where there is none."""
    texts = column.astype(object).map(lambda value: None if pd.isna(value) else str(value).strip() or None)
    return pd.Series(texts.to_numpy(dtype=object), index=column.index, dtype=object)
