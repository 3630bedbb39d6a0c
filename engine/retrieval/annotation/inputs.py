"""What annotation starts from, checked before anything is made: cells, joint model, labels, terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from engine.models.errors import ModelError
from engine.models.joint import JointConfig, TextSide, load_config, load_text_side, prompts
from engine.retrieval.annotation.tables import MOST_CATEGORIES
from engine.retrieval.annotation.vocabulary import Libraries, Term, read_labels, read_libraries
from storage.cells import CellStore
from storage.checkpoints import fingerprint, local_copy
from storage.embeddings import Embeddings
from storage.errors import InputError
from storage.protocol.snapshots import canonical, hash_of


@dataclass(frozen=True)
class AnnotationInputs:
    """joint: path of the model; model: its fingerprint. fields: obs columns whose groups get titles."""

    store: CellStore
    n_cells: int
    joint: str
    model: str
    config: JointConfig
    labels: tuple[Term, ...]
    libraries: Libraries
    fields: tuple[str, ...]

    @classmethod
    def open(
        cls,
        cells: str,
        joint: str,
        labels: str | None,
        *,
        label_column: str = "",
        terms: Sequence[str] = (),
        fields: Sequence[str] = (),
        max_cells: int | None = None,
    ) -> AnnotationInputs:
        """labels: a file or terms, None for those that occur in `label_column`. Raises InputError or
        ModelError for what is missing or does not go together.
        """
        store = CellStore.open(cells)
        if store.n_cells == 0:
            raise InputError(f"{cells}: the cell store holds no cells.")
        directory = local_copy(joint)
        config = load_config(directory)
        n_cells = min(store.n_cells, max_cells or store.n_cells)
        inputs = cls(
            store,
            n_cells,
            joint,
            fingerprint(directory),
            config,
            tuple(occurring(store, label_column, n_cells) if labels is None else read_labels(labels)),
            read_libraries(terms),
            tuple(fields),
        )
        inputs._check_fields()
        return inputs

    @cached_property
    def obs(self) -> pd.DataFrame:
        """All columns of the cells."""
        return self.store.obs().iloc[: self.n_cells]

    @property
    def terms(self) -> list[Term]:
        """Those of all libraries, one library after the other."""
        return [term for own in self.libraries.values() for term in own]

    @cached_property
    def text_side(self) -> TextSide:
        return load_text_side(local_copy(self.joint))

    def embeddings(self, path: str) -> Embeddings:
        """The cells' joint embeddings at a path. Raises InputError unless they are those of these cells by
        this model.
        """
        found = Embeddings.open(path)
        lineage = found.lineage
        if lineage.get("model") != self.model or lineage.get("embeddings", {}).get("space") != "joint":
            raise InputError(
                f"--embeddings {path}: made by model {lineage.get('model')} ({lineage.get('embeddings')}); "
                f"expected {self.model}, the joint model at {self.joint}. Make them with embed --model "
                f"{self.joint}, or leave --embeddings out."
            )
        if lineage.get("cells") != self.store.dataset_id or found.n_cells < self.n_cells:
            raise InputError(
                f"--embeddings {path}: {found.n_cells} cells of store {lineage.get('cells')}; expected "
                f"{self.n_cells} of {self.store.dataset_id} ({self.store.location})."
            )
        return found

    def require_templates(self, templates: Sequence[str]) -> None:
        """Raises InputError for a template that is not known and has no {}."""
        if not templates:
            raise InputError("--templates: name at least one.")
        for template in templates:
            try:
                prompts(["cell"], template)
            except ModelError as error:
                raise InputError(f"--templates: {error}") from error

    @property
    def facts(self) -> dict[str, Any]:
        """What of the inputs decides the values of an output."""
        terms = {
            library: [[t.name, t.texts, t.genes] for t in own] for library, own in self.libraries.items()
        }
        return {
            "cells": self.store.dataset_id,
            "n_cells": self.n_cells,
            "model": self.model,
            "labels": {term.name: list(term.texts) for term in self.labels},
            "terms": hash_of(canonical(terms)),
            "fields": list(self.fields),
        }

    def _check_fields(self) -> None:
        known = self.store.obs_columns
        for name in self.fields:
            if name not in known:
                raise InputError(
                    f"--cluster-columns {name}: no such obs column; there are {', '.join(known)}."
                )
            values = self.store.obs([name])[name].nunique()
            if values > MOST_CATEGORIES:
                raise InputError(
                    f"--cluster-columns {name}: {values:,} groups; at most {MOST_CATEGORIES} get titles."
                )


def occurring(store: CellStore, column: str, n_cells: int) -> list[Term]:
    """The values of an obs column as labels. Raises InputError for a column that is not there."""
    if column not in store.obs_columns:
        raise InputError(f"--label {column}: no such obs column; there are {', '.join(store.obs_columns)}.")
    values = store.obs([column])[column].iloc[:n_cells].dropna().astype(str)
    return [Term(name, (name,)) for name in sorted(set(values))]
