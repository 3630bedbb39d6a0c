"""Cell embeddings: one vector per cell, in the order of the store.

C cells of a batch; D width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from torch import Tensor

from engine.models import Encoder, PackedTokens, Tokens
from engine.models.joint import CellSide, load_cell_side
from engine.streaming.copies import HostCopy
from engine.streaming.members import Member, cells_per_member, fixed_members
from engine.streaming.products.product import Source
from storage import embeddings
from storage.checkpoints import local_copy
from storage.commits import Dataset, MemberPlan, Snapshot


@dataclass(frozen=True)
class EmbeddingProduct:
    """`encoder.embed` of every cell, float32; a row of NaN for a cell without any token.

    layer, pool: None for the model's own convention (resolved before they get here, so lineage names them).
    """

    layer: int
    pool: str

    kind = "embeddings"

    def lineage(self) -> Mapping[str, Any]:
        return {"layer": self.layer, "pool": self.pool}

    def members(self, nnz_per_cell: np.ndarray, max_tokens: int | None, n_special: int) -> list[MemberPlan]:
        return fixed_members(len(nnz_per_cell), cells_per_member(len(nnz_per_cell)))

    def collect(self, encoder: Encoder, tokens: Tokens, member: Member) -> EmbeddingCollector:
        embed = partial(encoder.embed, layer=self.layer, pool=self.pool)
        return EmbeddingCollector(embed, encoder.d_model, tokens, member)

    def finish(self, dataset: Dataset, source: Source) -> Snapshot:
        return finish_with_obs(dataset, source)


@dataclass(frozen=True)
class JointEmbeddingProduct:
    """Every cell in the common space of a joint model: unit vectors, float32; a row of NaN for a cell without
    any token.

    model: directory of the joint model, whose cell tower is the stream's encoder. width: of its space.
    """

    model: str
    width: int

    kind = "embeddings"

    def lineage(self) -> Mapping[str, Any]:
        return {"space": "joint", "width": self.width}

    def members(self, nnz_per_cell: np.ndarray, max_tokens: int | None, n_special: int) -> list[MemberPlan]:
        return fixed_members(len(nnz_per_cell), cells_per_member(len(nnz_per_cell)))

    def collect(self, encoder: Encoder, tokens: Tokens, member: Member) -> EmbeddingCollector:
        side = _cell_side(self.model, str(encoder.device))
        return EmbeddingCollector(partial(side.embed, encoder), self.width, tokens, member)

    def finish(self, dataset: Dataset, source: Source) -> Snapshot:
        return finish_with_obs(dataset, source)


@lru_cache(maxsize=1)
def _cell_side(model: str, device: str) -> CellSide:
    """Of this process: read once, used for all of its members."""
    return load_cell_side(local_copy(model)).to(device)


def finish_with_obs(dataset: Dataset, source: Source) -> Snapshot:
    """Close a dataset of embeddings: obs of the store, and how many tokens the model saw of each cell."""
    obs = source.store.obs().iloc[: source.n_cells].copy()
    obs["n_tokens"] = embeddings.read_token_counts(dataset)
    return embeddings.finish_embeddings(dataset, obs)


class EmbeddingCollector:
    """embed: packed tokens of a batch -> e_CD."""

    def __init__(
        self, embed: Callable[[PackedTokens], Tensor], width: int, tokens: Tokens, member: Member
    ) -> None:
        self.embed, self.member = embed, member
        self.n_tokens = np.asarray(tokens.lengths, dtype=np.int32)
        self.e_CD = np.full((tokens.n_cells, width), np.nan, dtype=np.float32)

    def add(self, cells: np.ndarray, tokens: PackedTokens) -> Callable[[], None]:
        pooled = HostCopy(self.embed(tokens))

        def place() -> None:
            self.e_CD[cells] = pooled.wait().numpy()

        return place

    def objects(self) -> Iterator[tuple[str, bytes]]:
        key = self.member.key
        yield embeddings.chunk_name(key), embeddings.embedding_chunk(self.e_CD, key, self.member.start)
        yield embeddings.token_counts_name(key), self.n_tokens.astype("<i4").tobytes()

    def facts(self) -> Mapping[str, Any]:
        return {
            "start": self.member.start,
            "stop": self.member.stop,
            "n_tokens": int(self.n_tokens.sum()),
            "n_empty": int((self.n_tokens == 0).sum()),
        }
