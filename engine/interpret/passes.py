"""A pass over the tokens of many cells, member by member: what all sources of activations have in common.

A pass leaves a dataset of states (`storage.feature_states`) beside the tables it is for. Members are fixed by
the plan, so an interrupted pass goes on with those that are missing, and the tables cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch

from engine.interpret.codes import sparse_codes
from engine.interpret.expression import Expression
from engine.interpret.features import GeneTokens, Integers, Observer, whole_cell_chunks
from engine.interpret.state import FeatureState, PassPlan
from engine.models import sae
from engine.models.sae.crosscoder import is_crosscoder, load_crosscoder
from engine.models.sae.gene_means import load_gene_means
from storage.checkpoints import local_copy
from storage.commits import Dataset
from storage.feature_states import state_objects
from storage.locations import Location

# done, total, unit
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Spent:
    """What a pass took in this run. tokens: gene tokens and others looked at."""

    tokens: int = 0
    peak_memory_bytes: int | None = None


class FeaturePass(Protocol):
    """A source of activations that a feature pass can be made over."""

    def lineage(self) -> Mapping[str, Any]:
        """Where activations come from; everything about it that changes a value."""

    def most_tokens(self) -> int:
        """At most so many tokens are looked at."""

    def sample_peak(self) -> float:
        """The largest activation of a feature on a few cells. Called inside a Ray session."""

    def observe(self, plan: PassPlan, edges: Sequence[int], states: Location, report: Progress) -> Spent:
        """Commit the states of all members at `states`, those still missing. Called inside a Ray session."""


def plan_lineage(plan: PassPlan, edges: Sequence[int]) -> dict[str, Any]:
    """The part of a pass's lineage that is the plan; `planned_resolution` finds it again."""
    return {**asdict(plan), "edges": list(edges)}


def planned_resolution(lineage: Mapping[str, Any] | None) -> float | None:
    """Resolution of a pass that was begun: a sample taken on another machine may round to another."""
    return None if lineage is None else float(lineage["feature_states"]["resolution"])


@lru_cache(maxsize=1)
def autoencoder(path: str, fingerprint: str, device: str = "cpu") -> sae.SAE:
    """Loaded once a worker process, not once a member; the fingerprint tells a replaced directory apart.

    Of a crosscoder, the autoencoder of all its places side by side.
    """
    directory = local_copy(path)
    found = load_crosscoder(directory).sae if is_crosscoder(directory) else sae.load(directory)
    return found.to(device)


@lru_cache(maxsize=1)
def gene_means(path: str, fingerprint: str, device: str = "cpu") -> torch.Tensor | None:
    """What lies beside an autoencoder of gene residuals, loaded like it; None beside any other."""
    means_GD = load_gene_means(local_copy(path))
    return None if means_GD is None else means_GD.to(device)


def observe_tokens(
    observer: Observer,
    encoder: sae.SAE,
    means_GD: torch.Tensor | None,
    x_TD: torch.Tensor,
    cell_T: Integers,
    gene_T: Integers,
    position_T: Integers,
    expression: Expression,
) -> None:
    """Fold gene tokens of whole cells into a state, in any order; activations `x_TD` on the host.

    means_GD: `gene_means` of the autoencoder.
    """
    order = np.lexsort((position_T, cell_T))
    for start, stop in whole_cell_chunks(cell_T[order]):
        rows = order[start:stop]
        cells, genes = cell_T[rows].astype(np.int64), gene_T[rows].astype(np.int64)
        tokens = GeneTokens(cells, genes, position_T[rows], expression(cells, genes))
        x_RD = x_TD[torch.from_numpy(rows)].to(encoder.W_enc.device)
        codes = sparse_codes(encoder, x_RD, observer.plan.n_features, gene_T=genes, gene_means_GD=means_GD)
        observer.add(tokens, codes)


def objects_of(state: FeatureState, key: str, edges: Sequence[int]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the objects of one member."""
    ranges = (part.arrays() for part in state.features.cut(state.plan, edges))
    return state_objects(key, state.tokens.arrays(), ranges)


def commit_state(dataset: Dataset, key: str, state: FeatureState, edges: Sequence[int]) -> None:
    """Write and commit the state of one member."""
    writer = dataset.member(key)
    for name, content in objects_of(state, key, edges):
        writer.put(name, content)
    writer.commit({"n_tokens": state.tokens.n_tokens})
