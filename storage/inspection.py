"""What is at a path: a dataset of any kind, finished or not, or a model directory; and is it sound."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from storage.commits import Dataset, Snapshot, open_snapshot
from storage.errors import DamagedDataset, InputError
from storage.locations import Location
from storage.model_directories import describe_model, is_model_directory
from storage.protocol.snapshots import LEASES, PLAN, size_problems

_SHOWN = 3
# Reading all obs columns of a larger store takes longer than an inspection should.
_OBS_AT_MOST = 1_000_000


@dataclass
class Description:
    """facts: JSON values, in reading order. sample: a few rows as text. problems: one line for each missing
    or damaged object.
    """

    facts: dict[str, Any]
    sample: str = ""
    problems: list[str] = field(default_factory=list)


def describe(path: Location | str, *, verify: bool = False) -> Description:
    """Describe what is at `path`. Object sizes are always checked; `verify` reads everything and compares
    hashes.

    Raises InputError when there is neither a dataset nor a model, DamagedDataset when a dataset's own log is
    damaged.
    """
    location = Location.of(path)
    if location.exists(PLAN):
        return _describe_dataset(location, verify)
    if is_model_directory(location):
        facts, problems = describe_model(location)
        return Description({"path": str(location), **facts}, problems=problems)
    names = list(location.list())
    found = f"there are {', '.join(names[:5])}" if names else "nothing is there"
    raise InputError(f"{location}: neither a dataset (no {PLAN}) nor a model directory; {found}")


def _describe_dataset(location: Location, verify: bool) -> Description:
    dataset = Dataset.open(location)
    records = list(dataset.records())
    objects = {name: stored for record in records for name, stored in record.objects.items()}
    snapshot = open_snapshot(location) if dataset.is_complete else None
    if snapshot is not None:
        objects = snapshot.all_objects
    description = Description(
        {
            "path": str(location),
            "kind": dataset.kind,
            "state": "finished" if snapshot else "not finished; run the job that writes it again to resume",
            "members_committed": len(records),
            "members_planned": len(dataset.members),
            "objects": len(objects),
            "bytes": sum(stored.size for stored in objects.values()),
            **_finished_facts(snapshot),
            **_unfinished_facts(dataset, snapshot),
            "lineage_id": dataset.lineage_id,
            "lineage": dict(dataset.lineage),
            "run": _run_record(location),
        },
        problems=[line for _, line in size_problems(location, objects)],
    )
    if verify and snapshot is not None:
        description.problems = snapshot.verify()
    elif verify:
        description.problems = _verify_unfinished(dataset)
    description.facts["checked"] = "sizes and hashes" if verify else "sizes"
    if snapshot is not None and not description.problems:
        try:
            description.sample = _SAMPLES.get(snapshot.kind, _any_sample)(snapshot)
        except DamagedDataset as error:
            description.problems.append(str(error))
    return description


def _finished_facts(snapshot: Snapshot | None) -> dict[str, Any]:
    if snapshot is None:
        return {}
    return {"dataset_id": snapshot.dataset_id, "snapshot": snapshot.version, **snapshot.facts}


def _unfinished_facts(dataset: Dataset, snapshot: Snapshot | None) -> dict[str, Any]:
    if snapshot is not None:
        return {}
    pending = [member.key for member in dataset.pending()]
    return {"pending": pending[:10], "leases": list(dataset.location.list(LEASES))[:10]}


def _verify_unfinished(dataset: Dataset) -> list[str]:
    """The committed members of a dataset without a snapshot, hash by hash."""
    records = list(dataset.records())
    kind, lineage = dataset.kind, dataset.lineage
    return Snapshot(dataset.location, kind, 0, lineage, dataset.lineage_id, records, {}, {}).verify()


def _run_record(location: Location) -> dict[str, Any] | None:
    """Which job wrote it, when and how long; None where it left no run.json."""
    if not location.exists("run.json"):
        return None
    record: Mapping[str, Any] = json.loads(location.read("run.json"))
    return {name: record.get(name) for name in ("job", "started", "wall_seconds")}


def _sample_cells(snapshot: Snapshot) -> str:
    from storage.cells import CellStore

    store = CellStore.open(str(snapshot.location))
    counts = store.read(0, min(_SHOWN, store.n_cells)).to_csr()
    names = store.genes.get("gene_name", store.genes.index)
    lines = []
    for row in range(counts.shape[0]):
        cell = counts.getrow(row)
        top = cell.indices[(-cell.data).argsort(kind="stable")[:_SHOWN]]
        most = ", ".join(str(name) for name in names.to_numpy()[top])
        lines.append(f"cell {row}: {cell.nnz:,} genes, {cell.data.sum():,.0f} counts, most of {most}")
    if store.n_cells <= _OBS_AT_MOST:
        lines.append(_head(store.obs()))
    return "\n".join(lines)


def _sample_embeddings(snapshot: Snapshot) -> str:
    from storage.embeddings import Embeddings

    embeddings = Embeddings.open(snapshot.location)
    rows = embeddings.read(0, min(_SHOWN, embeddings.n_cells))[:, :6]
    lines = [
        f"cell {number}: [{', '.join(f'{value:.4f}' for value in row)}, ...]"
        for number, row in enumerate(rows)
    ]
    return "\n".join([*lines, _head(embeddings.obs)])


def _sample_activations(snapshot: Snapshot) -> str:
    from storage.activations import ActivationCache

    cache = ActivationCache.open(snapshot.location)
    lines = [f"hooks {', '.join(cache.hooks)}; width {cache.d}; stored in {cache.dtype}"]
    full = [record for record in cache.members if record.facts["n_tokens"]]
    if not full:
        return lines[0]
    tokens = cache.read(cache.hooks[0], full[0].key)
    for row in range(min(_SHOWN, len(tokens.acts))):
        values = ", ".join(f"{value:.4f}" for value in tokens.acts[row, :6].tolist())
        gene = cache.genes["gene_name"].iloc[int(tokens.gene[row])]
        place = f"{gene} ({_TOKEN_CLASSES[tokens.token_class[row]]}) at {tokens.pos[row]}"
        lines.append(f"cell {tokens.cell[row]}, {place}: [{values}, ...]")
    return "\n".join(lines)


def _sample_features(snapshot: Snapshot) -> str:
    from storage.features import FeatureTables

    tables = FeatureTables.open(snapshot.location)
    return "\n".join([_head(tables.features), _head(tables.top_genes)])


def _sample_index(snapshot: Snapshot) -> str:
    from storage.index import VectorIndex

    index = VectorIndex(snapshot)
    line = f"{index.n_cells:,} cells in {len(index.segments)} segments, {index.width}-d"
    filled = [segment for segment in index.segments if segment.n_rows]
    return "\n".join([line, *(_head(index.annotations(s.arrays.ids[:_SHOWN])) for s in filled[:1])])


def _sample_databases(snapshot: Snapshot) -> str:
    from storage.databases import Databases

    databases = Databases(snapshot)
    lines = [
        f"{name}: {facts['n_associations']:,} associations, release {facts['release'] or 'unknown'}"
        for name in databases.sources
        for facts in [databases.describe(name)]
    ]
    return "\n".join([*lines, _head(databases.associations(databases.sources[0]))])


def _any_sample(snapshot: Snapshot) -> str:
    return "\n".join(f"member {record.key}: {dict(record.facts)}" for record in snapshot.members[:_SHOWN])


def _head(table: pd.DataFrame) -> str:
    return str(table.iloc[:_SHOWN, :8].to_string(max_colwidth=24))


_TOKEN_CLASSES = ("gene", "cell token", "special token")

_SAMPLES: dict[str, Callable[[Snapshot], str]] = {
    "cells": _sample_cells,
    "embeddings": _sample_embeddings,
    "activations": _sample_activations,
    "features": _sample_features,
    "index": _sample_index,
    "databases": _sample_databases,
}
