"""One index searched by several processes on Ray, each with some of the segments.

Every shard answers with its own k best, all scored exactly, so the k best of those are the k best of all.
A shard that does not answer in time or has died is left out, and the answer says so.

A shard opens the index at its path: local disk of one machine, a shared file system or an object store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.retrieval.found import Found, ranked
from engine.retrieval.search import Searcher
from storage.errors import InputError
from storage.index import Segment, VectorIndex


class ShardedSearcher:
    """A search over shards, all of one version. Needs a connection to Ray; `close` ends its processes."""

    def __init__(self, path: str, n_shards: int, version: int | None = None) -> None:
        import ray

        index = VectorIndex.open(path, version)
        if not 1 <= n_shards <= max(len(index.segments), 1):
            raise InputError(
                f"{path}: {len(index.segments)} segments cannot be searched by {n_shards} shards"
            )
        self.version = index.version
        # Threads of one shard would fight over cores with the other shards.
        actor = ray.remote(num_cpus=1)(_Shard)
        self._shards = [actor.remote(path, index.version, keys) for keys in shares(index.segments, n_shards)]

    def search(
        self, query_D: npt.NDArray[np.float32], k: int = 10, timeout: float | None = None, **how: Any
    ) -> Found:
        """As `Searcher.search`, with the same arguments in `how`. Shards that take longer than `timeout`
        seconds are left out; raises TimeoutError when none is in time, and what a shard refuses.
        """
        import ray

        asked = [shard.search.remote(query_D, k, how) for shard in self._shards]
        done, late = ray.wait(asked, num_returns=len(asked), timeout=timeout)
        for answer in late:
            # One that has begun is finished for nobody; one that waits in line is not begun.
            ray.cancel(answer)
        answers = []
        for answer in done:
            try:
                answers.append(ray.get(answer))
            except ray.exceptions.RayActorError:
                # A process is gone. Its part is missing from the answer, which says that it is partial.
                continue
        if not answers:
            raise TimeoutError(f"none of {len(asked)} shards answered within {timeout} s")
        return merged(answers, k, len(asked))

    def close(self) -> None:
        import ray

        for shard in self._shards:
            ray.kill(shard)


class _Shard:
    """The process of one shard."""

    def __init__(self, path: str, version: int, keys: Sequence[str]) -> None:
        index = VectorIndex.open(path, version)
        self._searcher = Searcher(index, [segment for segment in index.segments if segment.key in keys])

    def search(self, query_D: npt.NDArray[np.float32], k: int, how: dict[str, Any]) -> Found:
        return self._searcher.search(query_D, k, **how)


def merged(answers: Sequence[Found], k: int, n_shards: int) -> Found:
    """The answer of all shards from those that answered."""
    score, cell = ranked([found.score for found in answers], [found.cell for found in answers], k)
    ways: Counter[str] = Counter()
    for found in answers:
        ways.update(found.ways)
    n_passing = sum(found.n_passing for found in answers)
    return Found(score, cell, n_passing, answers[0].version, dict(ways), (len(answers), n_shards))


def shares(segments: Sequence[Segment], n_shards: int) -> list[list[str]]:
    """Keys of the segments of each shard: the largest first, each to the shard with the fewest rows."""
    keys: list[list[str]] = [[] for _ in range(n_shards)]
    rows = [0] * n_shards
    for segment in sorted(segments, key=lambda segment: (-segment.n_rows, segment.key)):
        fewest = rows.index(min(rows))
        keys[fewest].append(segment.key)
        rows[fewest] += segment.n_rows
    return keys
