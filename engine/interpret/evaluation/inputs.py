"""What is evaluated, checked before anything is computed: they must all speak of the same activations.

Shape legend: C cells of the store, G token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from engine.interpret.features import NO_LABEL
from engine.interpret.inputs import LabelColumn, hook_to_read, require_same_activations
from engine.models import sae
from engine.models.sae.gene_means import load_gene_means
from engine.streaming.inputs import Inputs
from storage.activations import ActivationCache
from storage.cells import CellStore
from storage.checkpoints import fingerprint, local_copy
from storage.errors import InputError

GROUP_COLUMNS = ("donor", "donor_id", "dataset", "batch", "sample", "sample_id")
"""obs columns that usually say from whom or where cells are, looked for in this order."""
MOST_GROUPS = 256
CLASSES = ("gene", "cell", "special")
"""`TokenActivations.token_class` by number: a gene, `<cls>`, any other special token."""
GENE = 0


@dataclass(frozen=True)
class Groups:
    """Cells that belong together: of a donor, a dataset, or a member of the store. code_C: int32."""

    column: str
    names: tuple[str, ...]
    code_C: npt.NDArray[np.int32]

    @classmethod
    def read(cls, store: CellStore, asked: str | None) -> Groups:
        """The asked obs column, else the first of `GROUP_COLUMNS` that has several values, else the members
        of the store. Raises InputError for a column that is not there or does not group cells."""
        if asked is not None:
            return cls._of_column(store, asked)
        for name in GROUP_COLUMNS:
            if name in store.obs_columns and 1 < store.obs([name])[name].nunique() <= MOST_GROUPS:
                return cls._of_column(store, name)
        starts = store.member_starts
        if len(starts) - 1 > MOST_GROUPS:
            return cls("store", ("all cells",), np.zeros(store.n_cells, np.int32))
        code_C = np.searchsorted(starts, np.arange(store.n_cells), side="right") - 1
        names = tuple(f"dataset_{number}" for number in range(len(starts) - 1))
        return cls("member of the store", names, code_C.astype(np.int32))

    @classmethod
    def _of_column(cls, store: CellStore, name: str) -> Groups:
        if name not in store.obs_columns:
            raise InputError(
                f"--group {name}: {store.location} has no such obs column; it has "
                f"{', '.join(store.obs_columns) or 'none'}."
            )
        column = store.obs([name])[name]
        texts = column.astype(object).where(column.notna(), "(none)").astype(str)
        code_C, names = pd.factorize(texts, sort=True)
        if len(names) > MOST_GROUPS:
            raise InputError(
                f"--group {name}: {len(names):,} different values in {store.location}; at most {MOST_GROUPS} "
                "groups of cells are reported. Choose a column such as donor or dataset."
            )
        return cls(name, tuple(map(str, names)), code_C.astype(np.int32))

    @classmethod
    def none(cls, n_cells: int) -> Groups:
        """All cells in one group: nothing is known of them."""
        return cls("none", ("all cells",), np.zeros(n_cells, np.int32))


@dataclass(frozen=True)
class Against:
    """Another autoencoder of the same activations, to compare features with."""

    path: str
    fingerprint: str
    seed: int | None


@dataclass(frozen=True)
class EvaluationInputs:
    """An autoencoder and a cache of what it reads; with a store also labels and groups of cells, with a model
    also what happens downstream.

    genes: what token ids mean (`storage.activations.gene_table`).
    """

    sae_path: str
    sae_fingerprint: str
    config: sae.SAEConfig
    cache: ActivationCache
    hook: str
    n_cells: int
    groups: Groups
    store: CellStore | None = None
    label: LabelColumn | None = None
    downstream: Inputs | None = None
    against: tuple[Against, ...] = field(default=())

    @classmethod
    def open(
        cls,
        sae_path: str,
        cache_path: str,
        *,
        cells_path: str | None = None,
        model_path: str | None = None,
        label: str | None = None,
        group: str | None = None,
        hook: str | None = None,
        against: Sequence[str] = (),
        max_cells: int | None = None,
    ) -> EvaluationInputs:
        """Raises InputError when they do not belong together, saying which field differs."""
        for flag, value in (("--label", label), ("--group", group), ("--model", model_path)):
            if value and not cells_path:
                raise InputError(f"{flag} {value}: give the cells too, with --cells STORE.")
        local = local_copy(sae_path)
        config = sae.load(local).config
        if config.d_out is not None:
            raise InputError(
                f"{sae_path} is a transcoder: it writes another hook point than it reads, and evaluate-sae "
                "compares a reconstruction with its own input. Give an autoencoder."
            )
        cache = ActivationCache.open(cache_path)
        chosen = _checked(sae_path, config, cache, cache_path, hook)
        n_cells = min(cache.n_cells, max_cells or cache.n_cells)
        store = _store(cells_path, cache, cache_path) if cells_path else None
        inputs = cls(
            sae_path=sae_path,
            sae_fingerprint=fingerprint(local),
            config=config,
            cache=cache,
            hook=chosen,
            n_cells=n_cells,
            groups=Groups.read(store, group) if store else Groups.none(_last_cell(cache)),
            store=store,
            label=LabelColumn.read(store, label) if store and label else None,
            downstream=_downstream(str(cells_path), model_path, cache, cache_path) if model_path else None,
            against=tuple(_against(path, sae_path, cache, cache_path, chosen) for path in against),
        )
        inputs._require_its_tokens()
        return inputs

    def _require_its_tokens(self) -> None:
        """Raises InputError when the cache lacks the kind of tokens, or the genes, it was trained on."""
        means_GD, cache = self.gene_means, self.cache
        if means_GD is not None and means_GD.shape != (len(self.genes), cache.d):
            raise InputError(
                f"{self.sae_path} takes activations less the means of {len(means_GD):,} token ids of width "
                f"{means_GD.shape[1]}; {cache.snapshot.location} has {len(self.genes):,} of width {cache.d}."
            )
        if self.kind == GENE:
            return
        if not (cache.read(self.hook, cache.members[0].key).token_class == self.kind).any():
            raise InputError(
                f"{self.sae_path} was trained on tokens of class {CLASSES[self.kind]!r}, of which "
                f"{cache.snapshot.location} holds none; make a cache with them."
            )

    @cached_property
    def gene_means(self) -> torch.Tensor | None:
        """means_GD to be taken off first, of an autoencoder trained on gene residuals."""
        return load_gene_means(local_copy(self.sae_path))

    @property
    def kind(self) -> int:
        """The kind of tokens that features are about: the one it was trained on, genes if on all kinds."""
        trained_on = self.config.metadata.get("token_class")
        return CLASSES.index(trained_on) if trained_on in CLASSES else GENE

    @cached_property
    def genes(self) -> pd.DataFrame:
        return self.cache.genes

    @property
    def n_labels(self) -> int:
        return len(self.label.labels) if self.label else 0

    @property
    def trained_here(self) -> bool:
        """Whether the autoencoder was trained on these cells: its tokens are then not held out."""
        metadata, store = self.config.metadata, self.cache.metadata.get("store")
        same_cells = bool(store) and metadata.get("cells") == store
        return same_cells or metadata.get("cache") == self.cache.dataset_id

    def labelled(self) -> npt.NDArray[np.int64]:
        """Rows of the evaluated cells that have a label."""
        if self.label is None:
            return np.empty(0, np.int64)
        return np.flatnonzero(self.label.code_C[: self.n_cells] != NO_LABEL)


def _checked(
    sae_path: str, config: sae.SAEConfig, cache: ActivationCache, cache_path: str, asked: str | None
) -> str:
    """The hook point both speak of."""
    remedy = "make a cache with --hooks {hook}, or name the cache's hook point with --hook if it is the same"
    what = f"the cache {cache_path}"
    hook = hook_to_read(
        sae_path, config.metadata.get("hook_name"), cache.hooks, asked, f"{what} holds", remedy
    )
    require_same_activations(sae_path, config, cache.d, cache.metadata.get("model"), what)
    return hook


def _store(path: str, cache: ActivationCache, cache_path: str) -> CellStore:
    store = CellStore.open(path)
    if cache.metadata.get("store", store.dataset_id) != store.dataset_id:
        raise InputError(
            f"--cells {path} is store {store.dataset_id}, but the cache {cache_path} was made from store "
            f"{cache.metadata['store']}; give the store the cache was made from."
        )
    return store


def _downstream(cells_path: str, model_path: str, cache: ActivationCache, cache_path: str) -> Inputs:
    inputs = Inputs.open(cells_path, model_path)
    made_by = cache.metadata.get("model")
    if made_by and made_by != inputs.model.fingerprint:
        raise InputError(
            f"--model {model_path} is model {inputs.model.fingerprint}, but the cache {cache_path} was made "
            f"by model {made_by}; give the model the cache was made by."
        )
    return inputs


def _against(path: str, sae_path: str, cache: ActivationCache, cache_path: str, hook: str) -> Against:
    local = local_copy(path)
    config = sae.load(local).config
    if config.d_out is not None:
        raise InputError(f"--against {path} is a transcoder; give autoencoders of the same activations.")
    _checked(path, config, cache, cache_path, None if config.metadata.get("hook_name") else hook)
    there = fingerprint(local)
    if there == fingerprint(local_copy(sae_path)):
        raise InputError(f"--against {path} is the evaluated autoencoder itself; give one of another seed.")
    return Against(path, there, config.metadata.get("seed"))


def _last_cell(cache: ActivationCache) -> int:
    """One beyond the largest cell row of a cache."""
    return max(int(record.facts["stop"]) for record in cache.members)
