"""What a feature pass over a crosscoder reads: all places it was trained on, checked before anything starts.

Shape legend: F features, S places of a crosscoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.interpret.inputs import CachedSubject, LabelColumn, require_same_cells
from engine.interpret.token_shards import AlignedShards, CacheShards, TokenShards
from engine.models.sae.crosscoder import Crosscoder, load_crosscoder
from storage.activations import ActivationCache
from storage.activations.aligned import AlignedCaches
from storage.cells import CellStore
from storage.checkpoints import fingerprint, local_copy
from storage.errors import InputError


@dataclass(frozen=True)
class CrosscoderInputs(CachedSubject):
    """A subject with the caches of a crosscoder's places: one cache with all of its hooks, or one a place.

    Token ids and genes are those of the first cache.
    """

    places: tuple[str, ...]
    """What the crosscoder calls them, in its order."""

    @classmethod
    def open(
        cls,
        sae_path: str,
        cache_paths: Sequence[str],
        cells_path: str,
        *,
        label: str | None = None,
        max_cells: int | None = None,
    ) -> CrosscoderInputs:
        """Raises InputError when they do not belong together, saying which field differs."""
        local = local_copy(sae_path)
        crosscoder = load_crosscoder(local)
        caches, store = [ActivationCache.open(path) for path in cache_paths], CellStore.open(cells_path)
        for path, cache in zip(cache_paths, caches, strict=True):
            require_same_cells(cells_path, store, path, cache)
        tokens = _tokens(sae_path, _places(sae_path, crosscoder), cache_paths, caches)
        return cls(
            sae_path=sae_path,
            sae_fingerprint=fingerprint(local),
            n_features=crosscoder.sae.d_sae,
            hook=",".join(place["hook_name"] for place in _places(sae_path, crosscoder)),
            store=store,
            n_cells=min(store.n_cells, max_cells or store.n_cells),
            label=LabelColumn.read(store, label) if label else None,
            genes=caches[0].genes,
            tokens=tokens,
            places=tuple(source.name for source in crosscoder.sources),
        )

    def feature_columns(self) -> Mapping[str, npt.NDArray[np.float64]]:
        """`share_<place>`: that place's part of the feature's decoder norms; 1 is a feature of it alone."""
        share_SF = load_crosscoder(local_copy(self.sae_path)).shares().double().numpy()
        return {f"share_{name}": share_F for name, share_F in zip(self.places, share_SF, strict=True)}


def _places(sae_path: str, crosscoder: Crosscoder) -> list[dict[str, Any]]:
    """Hook, model and width of every place, as training wrote them down."""
    described = crosscoder.metadata.get("sources", [])
    if len(described) != len(crosscoder.sources) or not all("hook_name" in place for place in described):
        raise InputError(
            f"{sae_path}: its cfg.json does not say the hook of each of its {len(crosscoder.sources)} places "
            "(metadata.sources[].hook_name); give a crosscoder that `syncytium train-sae` wrote."
        )
    return [
        {**place, "width": source.d_in} for place, source in zip(described, crosscoder.sources, strict=True)
    ]


def _tokens(
    sae_path: str,
    places: Sequence[Mapping[str, Any]],
    cache_paths: Sequence[str],
    caches: Sequence[ActivationCache],
) -> TokenShards:
    wanted = ", ".join(f"{place['hook_name']} of {place.get('model') or 'its model'}" for place in places)
    if len(caches) not in (1, len(places)):
        raise InputError(
            f"{sae_path} reads {len(places)} places ({wanted}), found {len(caches)} caches; give one "
            "cache that holds all, or --cache A,B with one of each, in this order."
        )
    one = len(caches) == 1
    for number, place in enumerate(places):
        path, cache = (cache_paths[0], caches[0]) if one else (cache_paths[number], caches[number])
        _require_place(sae_path, place, path, cache)
    hooks = tuple(place["hook_name"] for place in places)
    if one:
        return CacheShards(caches[0], hooks)
    return AlignedShards(AlignedCaches(caches, hooks))


def _require_place(sae_path: str, place: Mapping[str, Any], path: str, cache: ActivationCache) -> None:
    hook, model = place["hook_name"], cache.metadata.get("model")
    if hook not in cache.hooks:
        raise InputError(
            f"{sae_path} reads the hook point {hook}, but the cache {path} holds {', '.join(cache.hooks)}; "
            f"make a cache with --hooks {hook}, or give the caches in the crosscoder's order."
        )
    if place.get("model") and model and place["model"] != model:
        raise InputError(
            f"{sae_path} was trained on activations of model {place['model']} at {hook}, the cache {path} is "
            f"of model {model}; give the caches in the crosscoder's order."
        )
    if place["width"] != cache.d:
        raise InputError(
            f"{sae_path} takes activations of width {place['width']} at {hook}, the cache {path} has width "
            f"{cache.d}; give what the crosscoder was trained on."
        )
