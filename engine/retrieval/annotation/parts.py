"""The work on single cells and the map, part by part, committed: what is killed goes on where it was.

    counted (a range of cells)    sums that say how common each gene is
    map                           landmarks laid out
    cells (a range of cells)      needs both: places, names, scores, top genes, normalised expression

Parts of many cells are made in tasks of Ray, those of few in this process. Legend: C cells, G genes, K top
genes, L labels, T terms, U width of the space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from engine import ray_session
from engine.retrieval.annotation.expression import BLOCK_CELLS, log_sums, normalised, top_genes
from engine.retrieval.annotation.layout import Landmarks, LayoutOptions, Placing, find_landmarks
from engine.retrieval.annotation.zero_shot import ZeroShot
from engine.tasks import run_tasks
from storage.annotation_parts import CELLS, COUNTED, MAP, Parts, commit_part, kind_of
from storage.cells import CellStore
from storage.commits import Dataset
from storage.embeddings import Embeddings

# At 16,384 cells a part is half a minute of a core, and 300 MiB at 1,000 terms.
MOST_CELLS, FEWEST_CELLS, PARTS_OF_A_SMALL_STORE = 16_384, 256, 16
# Below so many cells starting Ray takes longer than the parts do.
CELLS_FOR_TASKS = 50_000
_TASKS_AT_ONCE = 256

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class PartWork:
    """What a part is made from; pickles as paths and small arrays. terms_TU: None where cells are not scored
    for terms. normaliser_G: known when all is counted.
    """

    store: CellStore
    embeddings: Embeddings
    n_cells: int
    labels: ZeroShot
    terms_TU: npt.NDArray[np.float32] | None
    n_top: int
    layout: LayoutOptions
    normaliser_G: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Tasks:
    """Where parts are made. wanted: in tasks of Ray; None: if there are many cells. address: of the Ray."""

    wanted: bool | None = None
    address: str | None = None

    def are_wanted(self, n_cells: int) -> bool:
        return n_cells >= CELLS_FOR_TASKS if self.wanted is None else self.wanted


def part_cells(n_cells: int) -> int:
    """Cells of a part."""
    return min(MOST_CELLS, max(FEWEST_CELLS, -(-n_cells // PARTS_OF_A_SMALL_STORE)))


def make_parts(dataset: Dataset, work: PartWork, tasks: Tasks, report: Report | None = None) -> Parts:
    """All parts that are not there yet: first what the others need, then those."""
    for kinds, unit in (((MAP, COUNTED), "cells counted"), ((CELLS,), "cells annotated")):
        pending = [member.key for member in dataset.pending() if kind_of(member.key) in kinds]
        if kinds == (CELLS,):
            work = replace(work, normaliser_G=normalisers(Parts(dataset), work.n_cells))
        if pending:
            _make(dataset, work, pending, tasks, unit, report)
    return Parts(dataset)


def normalisers(parts: Parts, n_cells: int) -> npt.NDArray[np.float64]:
    """Mean of log(count + 1) of each gene over all cells [G], zeros counted."""
    sums: npt.NDArray[np.float64] = np.sum(
        [parts.read(key, "sums.f64") for key in parts.keys(COUNTED)], axis=0, dtype=np.float64
    )
    return sums / n_cells


def landmarks_of(parts: Parts) -> Landmarks:
    row_M, place_M2, cluster_M = (
        parts.read(MAP, name) for name in ("rows.i64", "places.f32", "clusters.i32")
    )
    return Landmarks(row_M.astype(np.int64), place_M2.astype(np.float32), cluster_M.astype(np.int32))


def make_part(work: PartWork, dataset: Dataset, key: str) -> int:
    """Make and commit one part; how many cells it is about."""
    kind = kind_of(key)
    if kind == MAP:
        commit_part(dataset, key, _laid_out(find_landmarks(work.embeddings, work.n_cells, work.layout)))
        return 0
    facts = next(member.facts for member in dataset.members if member.key == key)
    start, stop = int(facts["start"]), int(facts["stop"])
    if kind == COUNTED:
        commit_part(dataset, key, {"sums.f64": log_sums(work.store, start, stop)})
    else:
        of_texts = _named(work, dataset, start, stop)
        commit_part(dataset, key, {**of_texts, **_expressed(work, start, stop)})
    return stop - start


def _laid_out(found: Landmarks) -> dict[str, Any]:
    return {"rows.i64": found.row_M, "places.f32": found.place_M2, "clusters.i32": found.cluster_M}


def _named(work: PartWork, dataset: Dataset, start: int, stop: int) -> dict[str, Any]:
    """Places, clusters, names and scores, by embeddings alone."""
    placing = _placing(str(dataset.location), dataset.lineage_id, str(work.embeddings.snapshot.location))
    found = []
    for first in range(start, stop, BLOCK_CELLS):
        e_CU = work.embeddings.read(first, min(first + BLOCK_CELLS, stop))
        named = work.labels.name(e_CU)
        place_C2, cluster_C = placing.place(first, e_CU)
        rows = {
            "places.f32": place_C2,
            "clusters.i32": cluster_C,
            "best.i32": named.best_C,
            "confidence.f32": named.confidence_C,
            "named.u8": named.is_named_C,
            "labels.f32": named.score_CL,
        }
        if work.terms_TU is not None:
            rows["terms.f32"] = e_CU @ work.terms_TU.T * work.labels.scale
        found.append(rows)
    return {name: np.concatenate([rows[name] for rows in found]) for name in found[0]}


def _expressed(work: PartWork, start: int, stop: int) -> dict[str, Any]:
    """Top genes, and normalised expression by gene."""
    if work.normaliser_G is None:
        raise ValueError("cells are annotated when all of them are counted")
    counts = work.store.read(start, stop).to_csr()
    by_gene = normalised(counts).tocsc()
    return {
        "top.i32": top_genes(counts, work.normaliser_G, work.n_top),
        "x.values.f32": by_gene.data,
        "x.cells.i32": by_gene.indices,
        "x.pointers.i64": by_gene.indptr,
    }


@lru_cache(maxsize=1)
def _placing(location: str, lineage_id: str, embeddings: str) -> Placing:
    """Of this process: what finds landmarks is made once, for all of its parts."""
    return Placing(Embeddings.open(embeddings), landmarks_of(Parts(Dataset.open(location, lineage_id))))


def _make(
    dataset: Dataset, work: PartWork, keys: Sequence[str], tasks: Tasks, unit: str, report: Report | None
) -> None:
    sizes = {m.key: int(m.facts["stop"]) - int(m.facts["start"]) for m in dataset.members if m.key != MAP}
    done = work.n_cells - sum(sizes.get(key, 0) for key in keys)

    def ended(n_cells: int) -> None:
        nonlocal done
        done += n_cells
        if report is not None:
            report(done, work.n_cells, unit)

    if not tasks.are_wanted(work.n_cells):
        for key in keys:
            ended(make_part(work, dataset, key))
        return
    with ray_session.connect(tasks.address):
        import ray

        shared = ray.put(work)
        run_tasks(make_part, [(shared, dataset, key) for key in keys], at_once=_TASKS_AT_ONCE, ended=ended)
