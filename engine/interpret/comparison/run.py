"""Comparing autoencoders, pair by pair; each pair is committed by itself, so an interrupted run goes on.

matching.parquet/<a>-<b>.parquet   one row a pair of features; `pandas.read_parquet` reads the folder
fires.parquet/<a>-<b>.parquet      with caches: on how many of the pair's tokens each feature fires
features.parquet                   one row a feature of each autoencoder: is it found in the others
metrics.json                       what all of it comes to
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import pandas as pd
import torch

from engine.interpret.comparison.aligned_codes import AlignedCodes, aligned_codes, chosen_cells
from engine.interpret.comparison.cka import linear_cka
from engine.interpret.comparison.matching import CANDIDATES, Matching, match
from engine.interpret.comparison.similarity import CodeCorrelation, DecoderCosine, Similarity
from engine.interpret.comparison.stability import SAME_ABOVE
from engine.interpret.comparison.subjects import By, Compared, way_of
from engine.interpret.comparison.tables import (
    Scored,
    firing_table,
    matching_of,
    measures_of,
    pair_metrics,
    pair_table,
)
from engine.models import sae
from storage.activations import ActivationCache
from storage.commits import Dataset, MemberPlan, Snapshot
from storage.errors import InputError
from storage.locations import Location
from storage.ranged_tables import parquet

KIND = "comparison"
MATCHING, FIRES, FEATURES, METRICS = "matching.parquet", "fires.parquet", "features.parquet", "metrics.json"

# done, total, unit
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ComparisonOptions:
    """What decides the tables beside the inputs.

    tokens: read so many aligned tokens of each pair, of cells from all over the store. candidates: partners
    kept of each feature for the assignment.
    """

    by: By = "auto"
    same_above: float = SAME_ABOVE
    tokens: int = 500_000
    candidates: int = CANDIDATES
    max_cells: int | None = None


@dataclass(frozen=True)
class Comparison:
    """What `compare` did; `did_work` is False when everything was there."""

    snapshot: Snapshot
    metrics: dict[str, Any]
    did_work: bool
    seconds: float = 0.0


def open_subjects(saes: Sequence[str], caches: Sequence[str], options: ComparisonOptions) -> list[Compared]:
    """Raises InputError for fewer than two, caches that do not fit, and pairs that cannot be compared."""
    if len(saes) < 2:
        raise InputError("give two autoencoders or more: --sae A --sae B.")
    opened = [ActivationCache.open(cache) for cache in caches]
    subjects = [Compared.open(path, opened) for path in saes]
    for one, other in combinations(subjects, 2):
        way_of(one, other, options.by)
    return subjects


def compare(
    subjects: Sequence[Compared],
    options: ComparisonOptions,
    output: Location,
    *,
    overwrite: bool = False,
    report: Progress | None = None,
) -> Comparison:
    """Write the comparison to `output`. Raises LineageMismatch when another is there."""
    report = report or (lambda done, total, unit: None)
    pairs = list(combinations(range(len(subjects)), 2))
    members = [MemberPlan(f"{one}-{other}", {"a": one, "b": other}) for one, other in pairs]
    lineage = {"saes": [subject.identity() for subject in subjects], **asdict(options)}
    dataset = Dataset.plan(output, kind=KIND, lineage=lineage, members=members, overwrite=overwrite)
    if dataset.is_complete:
        snapshot = dataset.finish()
        return Comparison(snapshot, json.loads(snapshot.read(METRICS)), did_work=False)
    started = time.monotonic()
    for member in dataset.pending():
        one, other = subjects[member.facts["a"]], subjects[member.facts["b"]]
        tables, facts = compare_pair(one, other, (member.facts["a"], member.facts["b"]), options, report)
        writer = dataset.member(member.key)
        for name, table in tables.items():
            writer.put(f"{name}/{member.key}.parquet", parquet(table))
        writer.commit(facts)
    features, metrics = _summary(dataset, subjects, options)
    objects = {FEATURES: parquet(features), METRICS: json.dumps(metrics, indent=2).encode()}
    snapshot = dataset.finish(objects, {"n_saes": len(subjects), "n_features": len(features)})
    return Comparison(snapshot, metrics, True, time.monotonic() - started)


def compare_pair(
    one: Compared,
    other: Compared,
    numbers: tuple[int, int],
    options: ComparisonOptions,
    report: Progress,
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """The tables of two autoencoders by name, and what they come to."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    by = way_of(one, other, options.by)
    codes = _codes(one, other, options, device, report)
    cosine = None
    # Of different layers too: blocks of one model write to the same stream.
    if by == "decoder" or (one.model == other.model and one.config.reconstructs == other.config.reconstructs):
        cosine = DecoderCosine(*(sae.load(side.directory).W_dec.to(device) for side in (one, other)))
    measures = measures_of(
        cosine,
        CodeCorrelation(codes.one_TF, codes.other_TG) if codes else None,
        CodeCorrelation(codes.one.codes_CF, codes.other.codes_CF) if codes else None,
    )
    similarity: Similarity = measures[_COLUMN[by]]
    matching = match(similarity, candidates=options.candidates)
    tables = {MATCHING: pair_table(matching, numbers, measures)}
    facts = {"by": by, **pair_metrics(matching, similarity, options.same_above)}
    if codes is None:
        return tables, facts
    return tables | {FIRES: firing_table(codes, numbers)}, facts | _shared_cells(codes)


_COLUMN = {"decoder": "decoder_cosine", "tokens": "token_correlation", "cells": "cell_correlation"}


def _codes(
    one: Compared, other: Compared, options: ComparisonOptions, device: str, report: Progress
) -> AlignedCodes | None:
    if one.source is None or other.source is None:
        return None
    cells = chosen_cells(one.source, other.source, options.tokens, options.max_cells)
    codes = aligned_codes(one, other, cells, device, report)
    if not len(codes.cell_T):
        raise InputError(
            f"{one.path} and {other.path}: their caches have no gene of any cell in common; make both from "
            "one cell store, with models that know its genes."
        )
    return codes


def _shared_cells(codes: AlignedCodes) -> dict[str, Any]:
    """How much was looked at, and whether both sides put the same cells close to each other."""
    of_codes = linear_cka(codes.one.codes_CF, codes.other.codes_CF)
    of_raw = linear_cka(codes.one.raw_CD, codes.other.raw_CD)
    return {
        "n_tokens": len(codes.cell_T),
        "n_cells": codes.one.codes_CF.shape[0],
        "cka_codes": of_codes and asdict(of_codes),
        "cka_activations": of_raw and asdict(of_raw),
    }


def _summary(
    dataset: Dataset, subjects: Sequence[Compared], options: ComparisonOptions
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """(features.parquet, metrics.json), from the pairs that are committed."""
    records = list(dataset.records())
    sizes = [subject.config.d_sae for subject in subjects]
    matchings: list[dict[int, Matching]] = [{} for _ in subjects]
    fires: list[pd.DataFrame] = []
    for member in dataset.members:
        one, other = member.facts["a"], member.facts["b"]
        table = _read(dataset, MATCHING, member.key)
        matchings[one][other] = matching_of(table, sizes[one], sizes[other])
        matchings[other][one] = matchings[one][other].reversed()
        if subjects[one].source and subjects[other].source:
            fires.append(_read(dataset, FIRES, member.key))
    fired = pd.concat(fires).groupby(["sae", "feature"])["n_tokens"].max() if fires else None
    scored = [
        Scored.of(number, found, options.same_above, None if fired is None else fired[number].to_numpy())
        for number, found in enumerate(matchings)
    ]
    metrics = {
        "same_above": options.same_above,
        "autoencoders": [
            {"number": number, "path": subject.path, **subject.identity(), **score.metrics()}
            for number, (subject, score) in enumerate(zip(subjects, scored, strict=True))
        ],
        "pairs": [
            {**member.facts, **record.facts} for member, record in zip(dataset.members, records, strict=True)
        ],
    }
    return pd.concat([score.table() for score in scored], ignore_index=True), metrics


def _read(dataset: Dataset, name: str, key: str) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(dataset.location.read(f"{name}/{key}.parquet")))
