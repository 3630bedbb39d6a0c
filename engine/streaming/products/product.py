"""The contract between the stream and what is made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from engine.models import Encoder, PackedTokens, Tokeniser, Tokens
from engine.streaming.members import Member
from storage.cells import CellStore
from storage.commits import Dataset, MemberPlan, Snapshot
from storage.durable_files import Content


@dataclass(frozen=True)
class Source:
    """What a product may ask of its inputs when it finishes: the cells and the vocabulary, no weights."""

    store: CellStore
    n_cells: int
    tokeniser: Tokeniser


class Collector(Protocol):
    """Gathers the results of one member, batch by batch, and cuts them into objects."""

    def add(self, cells: np.ndarray, tokens: PackedTokens) -> Callable[[], None]:
        """Encode one packed batch. `cells` (int64) numbers the batch's cells within the member.

        A GPU is not waited for: what is returned waits, and puts the batch's results in their place.
        """

    def objects(self) -> Iterator[tuple[str, Content]]:
        """(name, content) of every object of the member; memory of one object is free once the next is
        asked for.
        """

    def facts(self) -> Mapping[str, Any]:
        """What the commit record says of the member. As deterministic as the objects."""


class Product(Protocol):
    """One kind of dataset made from encoded cells. Small and picklable: it travels to every actor."""

    @property
    def kind(self) -> str:
        """Kind of the dataset on disk."""

    def lineage(self) -> Mapping[str, Any]:
        """Every option of the product that changes a value."""

    def members(self, nnz_per_cell: np.ndarray, max_tokens: int | None, n_special: int) -> list[MemberPlan]:
        """The plan for a store with these non-zero counts per cell (`[cells]`)."""

    def collect(self, encoder: Encoder, tokens: Tokens, member: Member) -> Collector:
        """A collector for one member, whose `tokens` (packed, in cell order) are about to be encoded."""

    def finish(self, dataset: Dataset, source: Source) -> Snapshot:
        """Write what belongs to the whole dataset and close it. All members are committed."""
