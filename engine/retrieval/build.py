"""Building an index from embeddings, segment by segment, and adding further embeddings to one.

Memory holds one segment in float16 and one chunk of the embeddings in float32. A killed build resumes at
the segment it was writing.

Shape legend: N rows, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.retrieval.ivf import inverted_lists
from engine.retrieval.shortlists import measured_shortlist
from storage.commits import Dataset, MemberPlan, Snapshot
from storage.embeddings import Embeddings
from storage.errors import InputError
from storage.index import KIND, SegmentArrays, ShortCodes, VectorIndex, cell_tables, versions
from storage.index.reader import TRANSFORM, TRANSFORM_KEY
from storage.index.segments import (
    IVF,
    make_segment,
    object_name,
    segment_facts,
    segment_objects,
    unit_vectors,
)
from storage.index.short_codes import Projection
from storage.locations import Location

# Vectors that the short codes are fitted to: 64 for each of up to 1,024 directions.
_FITTED_TO = 65_536

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class IndexOptions:
    """short_width: dimensions of the short codes. columns: obs columns to keep, None for all. sort_by:
    columns that rows of a segment are sorted by, None for those of few values. ivf_lists: inverted lists of
    each segment, 0 for none.
    """

    short_width: int = 64
    projection: Projection = "principal"
    segment_cells: int = 1 << 20
    columns: tuple[str, ...] | None = None
    sort_by: tuple[str, ...] | None = None
    ivf_lists: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Source:
    """Some embeddings about to be indexed: the first `n_cells` of them, with the obs columns to keep."""

    embeddings: Embeddings
    obs: pd.DataFrame
    n_cells: int

    @classmethod
    def open(cls, path: str | Location, columns: tuple[str, ...] | None, max_cells: int | None) -> Source:
        """Raises InputError when there are no finished embeddings, or a column is not theirs."""
        embeddings = Embeddings.open(path)
        n_cells = min(embeddings.n_cells, max_cells or embeddings.n_cells)
        obs = embeddings.obs.iloc[:n_cells]
        missing = [column for column in columns or () if column not in obs.columns]
        if missing:
            raise InputError(
                f"{path}: no obs column {', '.join(missing)}; there are {', '.join(map(str, obs.columns))}"
            )
        return cls(embeddings, obs if columns is None else obs[list(columns)], n_cells)

    @property
    def model(self) -> dict[str, Any]:
        """What made the vectors: vectors of another model mean other things."""
        return {name: self.embeddings.lineage.get(name) for name in ("model", "embeddings")}

    def facts(self, first_id: int) -> dict[str, Any]:
        return {
            "dataset_id": self.embeddings.dataset_id,
            "cells": self.embeddings.lineage.get("cells"),
            "path": str(self.embeddings.snapshot.location),
            "first_id": first_id,
            "n_cells": self.n_cells,
        }

    def pieces(self, start: int, stop: int) -> Iterator[npt.NDArray[np.float32]]:
        """Rows [start, stop), chunk by chunk of the embeddings."""
        while start < stop:
            end = min(stop, (start // self.embeddings.chunk_cells + 1) * self.embeddings.chunk_cells)
            yield self.embeddings.read(start, end)
            start = end

    def sample(self, n: int, seed: int) -> npt.NDArray[np.float32]:
        """About n unit vectors from all over, `[N, D]`."""
        generator, parts = np.random.default_rng(seed), []
        share = min(1.0, n / self.n_cells)
        for x_ND in self.pieces(0, self.n_cells):
            chosen = np.flatnonzero(generator.random(len(x_ND)) < share)
            unit_ND, norms = unit_vectors(x_ND[chosen])
            parts.append(unit_ND[norms > 0])
        return np.concatenate(parts)


def build(
    source: Source,
    output: Location,
    options: IndexOptions,
    *,
    joint: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    report: Report | None = None,
) -> tuple[VectorIndex, bool]:
    """Build (or finish building) an index; the index, and whether anything was left to do.

    joint: what is known of the joint model that made the embeddings (`texts.describe_joint`), if one did.
    Raises InputError for embeddings that cannot be indexed so, LineageMismatch for a directory that holds
    something else.
    """
    width = source.embeddings.width
    if not 1 <= options.short_width <= width:
        raise InputError(f"short codes of {options.short_width} dimensions; the embeddings have {width}")
    sort_by = _sort_columns(source, options)
    lineage = {"source": source.embeddings.dataset_id, "n_cells": source.n_cells, "model": source.model}
    lineage |= {"options": asdict(options), "sort_by": sort_by}
    members = [MemberPlan(TRANSFORM_KEY)]
    for number, start in enumerate(range(0, source.n_cells, options.segment_cells)):
        stop = min(start + options.segment_cells, source.n_cells)
        members.append(MemberPlan(f"{number:05d}", {"start": start, "stop": stop}))
    dataset = Dataset.plan(output, kind=KIND, lineage=lineage, members=members, overwrite=overwrite)
    if dataset.is_complete:
        return VectorIndex.open(output), False
    _write_members(dataset, source, options, sort_by, report)
    facts = {
        "width": width,
        "short_width": options.short_width,
        "projection": options.projection,
        "model": source.model,
        "joint": None if joint is None else dict(joint),
        "sources": [source.facts(0)],
        "next_id": source.n_cells,
        "sort_by": sort_by,
        "deleted": {},
        # Verdicts (match, review, none) need scores of known matches at this size.
        "calibration": None,
        "shortlist": {"n_rows": 0, "recalls": {}},
    }
    facts["shortlist"] = measured_shortlist(_unfinished(dataset, facts), options.seed)
    dataset.finish(facts=facts)
    return VectorIndex.open(output), True


def append(index: VectorIndex, source: Source, options: IndexOptions) -> tuple[VectorIndex, bool]:
    """Add embeddings by the same model to an index; the next version, and whether they were not in it yet.

    Codes, order and kept columns are those of the index where the options do not say otherwise.
    """
    if any(entry["dataset_id"] == source.embeddings.dataset_id for entry in index.facts["sources"]):
        return index, False
    if source.model != index.facts["model"] or source.embeddings.width != index.width:
        raise InputError(
            f"{source.embeddings.snapshot.location}: {source.embeddings.width}-d embeddings by "
            f"{source.model}; the index holds {index.width}-d ones by {index.facts['model']}. "
            "Vectors of two models cannot be compared: build another index"
        )
    first, sort_by, records = index.facts["next_id"], index.facts["sort_by"], []
    for start in range(0, source.n_cells, options.segment_cells):
        stop = min(start + options.segment_cells, source.n_cells)
        rows = _segment(source, start, stop, first, index.codes, sort_by)
        key = f"{source.embeddings.dataset_id[:12]}-{first + start}"
        lists = (
            {IVF: inverted_lists(rows.vectors, options.ivf_lists, options.seed)} if options.ivf_lists else {}
        )
        records.append(versions.store_segment(index.snapshot, key, rows, lists))
    return versions.append(index, records, source.facts(first)), True


def _sort_columns(source: Source, options: IndexOptions) -> list[str]:
    if options.sort_by is None:
        return cell_tables.columns_to_sort_by(source.obs)
    missing = [column for column in options.sort_by if column not in source.obs.columns]
    if missing:
        raise InputError(f"no obs column {', '.join(missing)} to sort by")
    return list(options.sort_by)


def _write_members(
    dataset: Dataset, source: Source, options: IndexOptions, sort_by: list[str], report: Report | None
) -> None:
    pending = {member.key for member in dataset.pending()}
    if TRANSFORM_KEY in pending:
        sample_ND = source.sample(_FITTED_TO, options.seed)
        if not len(sample_ND):
            raise InputError(f"{source.embeddings.snapshot.location}: no cell has a finite vector")
        codes = ShortCodes.fit(sample_ND, options.short_width, options.projection)
        writer = dataset.member(TRANSFORM_KEY)
        writer.put(TRANSFORM, codes.to_bytes())
        writer.commit()
    codes = ShortCodes.from_bytes(dataset.location.read(TRANSFORM))
    for member in dataset.members[1:]:
        start, stop = member.facts["start"], member.facts["stop"]
        if member.key in pending:
            rows = _segment(source, start, stop, 0, codes, sort_by)
            writer = dataset.member(member.key)
            for name, content in segment_objects(member.key, rows):
                writer.put(name, content)
            if options.ivf_lists:
                lists = inverted_lists(rows.vectors, options.ivf_lists, options.seed)
                writer.put(object_name(member.key, IVF), lists)
            writer.commit(segment_facts(rows))
        if report is not None:
            report(stop, source.n_cells, "cells")


def _segment(
    source: Source, start: int, stop: int, offset: int, codes: ShortCodes, sort_by: list[str]
) -> SegmentArrays:
    table = cell_tables.table_of(source.obs.iloc[start:stop])
    return make_segment(source.pieces(start, stop), table, offset + start, codes, sort_by)


def _unfinished(dataset: Dataset, facts: Mapping[str, Any]) -> VectorIndex:
    """The index as it will be: all members are committed, the snapshot is not made."""
    records = list(dataset.records())
    return VectorIndex(
        Snapshot(dataset.location, KIND, 0, dataset.lineage, dataset.lineage_id, records, {}, facts)
    )
