"""One set of features against all sources: what every worker needs, the observed tests, the shuffled ones.

Shape legend: F lists, G genes, S sources, E entries of the tail table, P permutations.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from engine.interpret.enrichment.exact import KeptTests, Scan, scan
from engine.interpret.enrichment.lists import Background, GeneLists, TermSets
from engine.interpret.enrichment.null import annotation_degree, shuffled, strata
from engine.interpret.enrichment.tails import TailTable
from engine.interpret.runs import Float64, Int64
from engine.interpret.statistics import benjamini_hochberg, benjamini_yekutieli

TESTS_IN_PROCESS = 2_000_000_000
"""With more tests than this, permutations included, the work is worth starting Ray: about 20 CPU seconds."""
SHARD_TESTS = 100_000_000


@dataclass(frozen=True)
class Study:
    """Lists, sources and the table of all p values that can occur. Pickles; under 30 MB at 16k features."""

    background: Background
    lists: GeneLists
    sources: tuple[TermSets, ...]
    table: TailTable
    stratum_G: Int64
    alpha: float
    min_overlap: int
    seed: int

    @classmethod
    def of(
        cls,
        background: Background,
        lists: GeneLists,
        sources: Sequence[TermSets],
        *,
        alpha: float = 0.05,
        min_overlap: int = 3,
        seed: int = 0,
    ) -> Study:
        """alpha: level of the false discovery rate. min_overlap: smaller overlaps are tested and corrected
        for like all others, and never reported as significant."""
        sizes = [terms.sizes for terms in sources]
        table = TailTable.of(
            lists.sizes, np.concatenate([*sizes, np.empty(0, np.int64)]).astype(np.int64), len(background)
        )
        stratum_G = strata(annotation_degree(background, sources), background.expression_G)
        return cls(background, lists, tuple(sources), table, stratum_G, alpha, min_overlap, seed)

    @property
    def n_tests(self) -> int:
        return len(self.lists) * sum(map(len, self.sources))

    def shards(self) -> list[tuple[int, int]]:
        """Ranges of lists with about SHARD_TESTS tests each."""
        n_shards = max(1, min(len(self.lists), round(self.n_tests / SHARD_TESTS)))
        edges = np.linspace(0, len(self.lists), n_shards + 1).astype(int).tolist()
        return list(itertools.pairwise(edges))


class Shuffle(NamedTuple):
    """One permutation: tests at each entry and the smallest p of each list, by source."""

    count_SE: Int64
    best_SF: Float64


def observe(study: Study, first: int, stop: int) -> list[Scan]:
    """The tests of lists [first, stop), one scan per source. No test with p above alpha can be significant
    under any of the corrections: those are counted, not kept."""
    part = study.lists.part(first, stop)
    return [
        scan(
            part,
            terms,
            study.table,
            min_overlap=study.min_overlap,
            keep_p=study.alpha,
            first=first,
        )
        for terms in study.sources
    ]


def shuffle(study: Study, number: int) -> Shuffle:
    """Permutation `number`: the same lists and terms, genes relabelled inside their strata."""
    order_G = shuffled(study.stratum_G, study.seed, number)
    scans = [
        scan(study.lists, terms.permuted(order_G), study.table, min_overlap=study.min_overlap)
        for terms in study.sources
    ]
    return Shuffle(np.stack([one.count_E for one in scans]), np.stack([one.best_F for one in scans]))


def joined(shards: Sequence[Sequence[Scan]]) -> list[Scan]:
    """Scans of ranges of lists, in order, as scans of all of them: one per source."""
    return [
        Scan(
            np.sum([one.count_E for one in parts], axis=0),
            np.concatenate([one.best_F for one in parts]),
            np.concatenate([one.simes_F for one in parts]),
            KeptTests.joined([one.kept for one in parts if one.kept is not None]),
        )
        for parts in zip(*shards, strict=True)
    ]


@dataclass(frozen=True)
class Correction:
    """False discovery rates over all tests of a family, at each entry of the table.

    limit: the largest p that is significant, -1 when none is.
    """

    q_E: Float64
    by_E: Float64
    n_tests: int
    limit: float

    @classmethod
    def of(cls, table: TailTable, count_E: Int64, alpha: float) -> Correction:
        n_tests = int(count_E.sum())
        q_E = benjamini_hochberg(table.p_E, count_E)
        passing = table.p_E[(q_E <= alpha) & (count_E > 0)]
        limit = float(passing.max()) if passing.size else -1.0
        return cls(q_E, benjamini_yekutieli(q_E, n_tests), n_tests, limit)

    def found(self, study: Study, count_E: Int64, limit: float | None = None) -> int:
        """Tests of `count_E` that are significant and overlap enough to be reported."""
        passing_E = study.table.p_E <= (self.limit if limit is None else limit)
        return int(count_E[passing_E & (study.table.overlaps >= study.min_overlap)].sum())


def in_turn(
    function: Any, study: Study, arguments: Sequence[tuple[int, ...]], use_ray: bool
) -> Iterator[Any]:
    """function(study, *arguments) for each, in order: here, or on the Ray that is connected."""
    if not use_ray:
        yield from (function(study, *given) for given in arguments)
        return
    import ray

    task = ray.remote(num_cpus=1, max_retries=3)(function)
    shared = ray.put(study)
    waiting = [task.remote(shared, *given) for given in arguments]
    while waiting:
        # Fetched one by one and let go: results of many permutations would fill the object store.
        yield ray.get(waiting.pop(0))
