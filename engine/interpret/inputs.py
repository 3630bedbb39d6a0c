"""What a feature pass reads, checked before anything is written: they must all speak of the same activations.

Shape legend: C cells of the store, G token ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.interpret.features import NO_LABEL
from engine.interpret.names import Names
from engine.interpret.token_shards import CacheShards, TokenShards
from engine.models import sae
from engine.streaming.inputs import Inputs
from storage.activations import ActivationCache, gene_table
from storage.cells import CellStore
from storage.checkpoints import fingerprint, local_copy
from storage.errors import InputError

MAX_LABELS = 1000
"""More distinct values than this are measurements or names of cells, not labels."""

OUR_HOOK = re.compile(r"embed|final|(resid_pre|attn_out|mlp_out|resid_post)_\d+")
"""How our encoders name hook points; an autoencoder from elsewhere may use other names."""


@dataclass(frozen=True)
class LabelColumn:
    """An obs column as label numbers: `code_C` int32, -1 for cells without a label."""

    name: str
    labels: tuple[str, ...]
    code_C: npt.NDArray[np.int32]

    @classmethod
    def read(cls, store: CellStore, name: str) -> LabelColumn:
        """Raises InputError for a column that is not there or does not hold labels."""
        if name not in store.obs_columns:
            raise InputError(
                f"--label {name}: {store.location} has no such obs column; it has "
                f"{', '.join(store.obs_columns) or 'none'}."
            )
        column = store.obs([name])[name]
        codes, labels = pd.factorize(column.astype(object).where(column.notna(), None), sort=False)
        if len(labels) > MAX_LABELS:
            raise InputError(
                f"--label {name}: {len(labels):,} different values in {store.location}; a label column has "
                f"at most {MAX_LABELS:,}. Choose a column of categories such as cell types."
            )
        texts = [str(label) for label in labels]
        order = np.argsort(np.asarray(texts, dtype=object), kind="stable")
        place = np.empty(len(order) + 1, np.int32)
        place[order], place[-1] = np.arange(len(order)), NO_LABEL
        return cls(name, tuple(texts[number] for number in order), place[codes])


@dataclass(frozen=True)
class Subject:
    """What is looked at, wherever activations come from: an autoencoder at a hook point, cells, their labels.

    genes: what token ids mean (`storage.activations.gene_table`).
    """

    sae_path: str
    sae_fingerprint: str
    n_features: int
    hook: str
    store: CellStore
    n_cells: int
    label: LabelColumn | None
    genes: pd.DataFrame

    @cached_property
    def gene_tokens(self) -> npt.NDArray[np.bool_]:
        """Whether a token id is a gene, [G]."""
        return (self.genes["class"] == "gene").to_numpy()

    def names(self) -> Names:
        """What token ids, cell rows and label numbers are called."""
        label = self.label
        return Names(
            gene_id_G=self.genes["gene_id"].tolist(),
            gene_name_G=self.genes["gene_name"].tolist(),
            cell_names=self.store.obs([]).index.astype(str).tolist(),
            cell_labels=None
            if label is None
            else [None if code == NO_LABEL else label.labels[code] for code in label.code_C],
            labels=() if label is None else label.labels,
            feature_columns=self.feature_columns(),
        )

    def feature_columns(self) -> Mapping[str, npt.NDArray[np.float64]]:
        """What is known of every feature before it is seen to fire, [F] by name."""
        return {}


@dataclass(frozen=True)
class CachedSubject(Subject):
    """A subject whose activations lie in a cache, or in several."""

    tokens: TokenShards


@dataclass(frozen=True)
class FeatureInputs(CachedSubject):
    """A subject with a cache that holds the activations the autoencoder reads."""

    cache: ActivationCache

    @classmethod
    def open(
        cls,
        sae_path: str,
        cache_path: str,
        cells_path: str,
        *,
        hook: str | None = None,
        label: str | None = None,
        max_cells: int | None = None,
    ) -> FeatureInputs:
        """Raises InputError when the three do not belong together, saying which field differs."""
        local = local_copy(sae_path)
        config = sae.load(local).config
        cache, store = ActivationCache.open(cache_path), CellStore.open(cells_path)
        what = f"the cache {cache_path}"
        remedy = (
            "make a cache with --hooks {hook}, or name the cache's hook point with --hook if it is the same"
        )
        chosen = hook_to_read(
            sae_path, config.metadata.get("hook_name"), cache.hooks, hook, f"{what} holds", remedy
        )
        require_same_activations(sae_path, config, cache.d, cache.metadata.get("model"), what)
        require_whole_activations(sae_path, config)
        require_same_cells(cells_path, store, cache_path, cache)
        return cls(
            sae_path=sae_path,
            sae_fingerprint=fingerprint(local),
            n_features=config.d_sae,
            cache=cache,
            tokens=CacheShards(cache, (chosen,)),
            hook=chosen,
            store=store,
            n_cells=min(store.n_cells, max_cells or store.n_cells),
            label=LabelColumn.read(store, label) if label else None,
            genes=cache.genes,
        )


@dataclass(frozen=True)
class EncodedInputs(Subject):
    """A subject whose activations an encoder makes during the pass; nothing of them is kept."""

    stream: Inputs

    @classmethod
    def open(
        cls,
        sae_path: str,
        cells_path: str,
        model_path: str,
        *,
        hook: str | None = None,
        label: str | None = None,
        max_cells: int | None = None,
    ) -> EncodedInputs:
        """Raises InputError when the three do not belong together, saying which field differs."""
        local = local_copy(sae_path)
        config = sae.load(local).config
        stream = Inputs.open(cells_path, model_path, max_cells)
        model, store = stream.model, stream.store
        what = f"the model {model_path}"
        remedy = "give the model the autoencoder was trained on, or name the hook point with --hook"
        chosen = hook_to_read(
            sae_path, config.metadata.get("hook_name"), model.hook_names, hook, f"{what} has", remedy
        )
        require_same_activations(sae_path, config, model.d_model, model.fingerprint, what)
        require_whole_activations(sae_path, config)
        return cls(
            sae_path=sae_path,
            sae_fingerprint=fingerprint(local),
            n_features=config.d_sae,
            stream=stream,
            hook=chosen,
            store=store,
            n_cells=stream.n_cells,
            label=LabelColumn.read(store, label) if label else None,
            genes=gene_table(model.tokeniser.gene_ids, model.tokeniser.special_ids, store.genes),
        )


def hook_to_read(
    sae_path: str, trained: str | None, there: Sequence[str], asked: str | None, holder: str, remedy: str
) -> str:
    """The hook point to read: the one the autoencoder was trained at, which must be there."""
    held = ", ".join(there)
    if trained is not None and OUR_HOOK.fullmatch(trained) and asked not in (None, trained):
        raise InputError(f"--hook {asked}: the autoencoder {sae_path} was trained at {trained}.")
    hook = asked or trained or (there[0] if len(there) == 1 else None)
    if hook is None:
        raise InputError(f"{sae_path} does not say its hook point; say it with --hook (one of {held}).")
    if hook not in there:
        raise InputError(
            f"{sae_path} reads the hook point {hook}, but {holder} {held}; {remedy.format(hook=hook)}."
        )
    return hook


def require_same_activations(
    sae_path: str, config: sae.SAEConfig, width: int, model: str | None, what: str
) -> None:
    if config.d_in != width:
        raise InputError(
            f"{sae_path} takes activations of width {config.d_in}, {what} has width {width}; give what the "
            "autoencoder was trained on, or another of the same model."
        )
    trained_on = config.metadata.get("model")
    if trained_on and model and trained_on != model:
        raise InputError(
            f"{sae_path} was trained on activations of model {trained_on}, {what} is of model {model}; use "
            "the autoencoder's model."
        )


def require_same_cells(cells_path: str, store: CellStore, cache_path: str, cache: ActivationCache) -> None:
    if cache.metadata.get("store", store.dataset_id) != store.dataset_id:
        raise InputError(
            f"--cells {cells_path} is store {store.dataset_id}, but the cache {cache_path} was made from "
            f"store {cache.metadata['store']}; give the store the cache was made from."
        )


def require_whole_activations(sae_path: str, config: sae.SAEConfig) -> None:
    """Raises InputError for an autoencoder of gene residuals, where activations are fed to it as they are."""
    if config.metadata.get("gene_residual"):
        raise InputError(
            f"{sae_path} was trained with --gene-residual: it takes activations less their gene's mean, "
            "which only evaluate-sae takes off; give an autoencoder of whole activations."
        )
