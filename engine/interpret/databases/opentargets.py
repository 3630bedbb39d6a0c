"""Open Targets Platform: scored target-disease associations, Parquet.

Until 25.12 the score is `score` and its source `datasourceId`; from 26.03 `associationScore` and
`aggregationValue`. The overall score is a harmonic sum over sources, text mining and expression atlases
included; where sources are to be left out it is made again from the scores by source, as the Platform makes
it: weighted, sorted, s1/1 + s2/4 + s3/9 + ..., over its largest value (that of 100,000 sources of score 1).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from engine.interpret.databases.files import open_bytes
from engine.interpret.databases.intake import Intake
from engine.interpret.databases.ontologies import Ontology
from storage.errors import InputError

# The Platform's own weights; every other source has 1.
WEIGHTS = {"europepmc": 0.2, "expression_atlas": 0.2, "impc": 0.2, "cancer_biomarkers": 0.5}
_LARGEST_SUM = sum(1 / place**2 for place in range(1, 100_001))
_ROWS = 1 << 16

OVERALL = {
    "26.03-": ("diseaseId", "targetId", "associationScore", "aggregationValue"),
    "until 25.12": ("diseaseId", "targetId", "score"),
}
BY_SOURCE = {
    "26.03-": ("diseaseId", "targetId", "associationScore", "aggregationValue"),
    "until 25.12": ("diseaseId", "targetId", "score", "datasourceId"),
}
DISEASES = {"diseases": ("id", "name", "parents")}
TARGETS = {"targets": ("id", "approvedSymbol")}


@dataclass(frozen=True)
class Rules:
    """threshold: least score. without: sources left out of it. indirect: with what is known of narrower
    diseases, where those files are there.
    """

    threshold: float = 0.3
    without: tuple[str, ...] = ("europepmc", "expression_atlas")
    indirect: bool = True


def read(files: Mapping[str, list[Path]], rules: Rules, intake: Intake) -> None:
    """Evidence is `overall`, or `overall without <sources>`."""
    symbols = _symbols(files.get("targets", []), intake)
    kinds = ("indirect", "direct") if rules.indirect else ("direct", "indirect")
    by_source = next((files[f"by_source_{kind}"] for kind in kinds if f"by_source_{kind}" in files), [])
    overall = next((files[f"overall_{kind}"] for kind in kinds if f"overall_{kind}" in files), [])
    if rules.without and by_source:
        evidence = f"overall without {', '.join(rules.without)}"
        rows = _recomputed(by_source, rules, intake)
    elif overall:
        evidence, rows = "overall", _overall(overall, rules.threshold, intake)
        if rules.without:
            intake.notes.append(
                "opentargets: no association_by_datasource files, so the score includes "
                f"{', '.join(rules.without)}"
            )
    else:
        raise InputError("opentargets: no association_overall files (or no association_by_datasource).")
    found = re.findall(r"(?<!\d)(\d\d\.\d\d)(?!\d)", str((overall or by_source)[0]))
    intake.release = found[-1] if found else ""
    for disease, target, score in rows:
        intake.keep((target, symbols.get(target, "")), disease, evidence, score)
        intake.name(disease, "")
    if "diseases" in files:
        _diseases(files["diseases"], intake).name_terms(intake)


def _overall(paths: Sequence[Path], threshold: float, intake: Intake) -> Iterator[tuple[str, str, float]]:
    for batch in _batches(paths, OVERALL, intake):
        scores = batch.column(2).to_numpy(zero_copy_only=False)
        passing = scores >= threshold
        intake.dropped[f"score below {threshold}"] += int((~passing).sum())
        kept = batch.filter(pa.array(passing))
        yield from zip(*(kept.column(place).to_pylist() for place in range(3)), strict=True)


def _recomputed(paths: Sequence[Path], rules: Rules, intake: Intake) -> Iterator[tuple[str, str, float]]:
    """Scores without some sources. Holds 13 bytes for each row of the other sources."""
    codes: list[dict[str, int]] = [{}, {}, {}]
    columns = (array("i"), array("i"), array("b"))
    scores = array("f")
    for batch in _batches(paths, BY_SOURCE, intake):
        sources = batch.column(3)
        used = ~np.isin(sources.to_numpy(zero_copy_only=False).astype(str), rules.without)
        intake.dropped[f"source {' or '.join(rules.without)}"] += int((~used).sum())
        batch = batch.filter(pa.array(used))
        for column, known, place in zip(columns, codes, (0, 1, 3), strict=True):
            column.extend(_coded(batch.column(place), known).tolist())
        scores.extend(batch.column(2).to_pylist())
    disease, target, source = (np.array(column) for column in columns)
    weights = np.array([WEIGHTS.get(name, 1.0) for name in codes[2]])
    pair = disease.astype(np.int64) << 32 | target
    pairs, sums = harmonic_sums(pair, source, np.array(scores, np.float64) * weights[source])
    passing = sums >= rules.threshold
    intake.dropped[f"score below {rules.threshold}"] += int((~passing).sum())
    diseases, targets = list(codes[0]), list(codes[1])
    for key, score in zip(pairs[passing].tolist(), sums[passing].tolist(), strict=True):
        yield diseases[key >> 32], targets[key & 0xFFFFFFFF], score


def harmonic_sums(
    pair: npt.NDArray[np.int64], source: npt.NDArray[np.int8], weighted: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(distinct pairs ascending, score of each) from weighted scores by pair and source; of a source that
    scores a pair twice the higher score counts.
    """
    order = np.lexsort((-weighted, source, pair))
    pair, source, weighted = pair[order], source[order], weighted[order]
    first = np.ones(len(pair), bool)
    first[1:] = (pair[1:] != pair[:-1]) | (source[1:] != source[:-1])
    pair, weighted = pair[first], weighted[first]
    order = np.lexsort((-weighted, pair))
    pair, weighted = pair[order], weighted[order]
    pairs, starts, sizes = np.unique(pair, return_index=True, return_counts=True)
    rank = np.arange(len(pair)) - np.repeat(starts, sizes) + 1
    sums = np.bincount(np.repeat(np.arange(len(pairs)), sizes), weighted / rank**2, len(pairs))
    return pairs, sums / _LARGEST_SUM


def _coded(column: pa.Array, known: dict[str, int]) -> npt.NDArray[np.int64]:
    """Numbers for the values of a column; new values are added to `known`."""
    encoded = column.dictionary_encode()
    numbers = [known.setdefault(name, len(known)) for name in encoded.dictionary.to_pylist()]
    places = encoded.indices.to_numpy(zero_copy_only=False)
    return np.array(numbers, np.int64)[places] if numbers else np.empty(0, np.int64)


def _symbols(paths: Sequence[Path], intake: Intake) -> dict[str, str]:
    pairs = (zip(*(c.to_pylist() for c in b.columns), strict=True) for b in _batches(paths, TARGETS, intake))
    return {target: symbol or "" for batch in pairs for target, symbol in batch}


def _diseases(paths: Sequence[Path], intake: Intake) -> Ontology:
    ontology = Ontology()
    for batch in _batches(paths, DISEASES, intake):
        for term, name, parents in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            ontology.names[term], ontology.parents[term] = name or "", tuple(parents or ())
    for term, parents in ontology.parents.items():
        ontology.parents[term] = tuple(parent for parent in parents if parent in ontology.names)
    return ontology


def _batches(
    paths: Sequence[Path], layouts: Mapping[str, tuple[str, ...]], intake: Intake
) -> Iterator[pa.RecordBatch]:
    """The wanted columns of all files, 65,536 rows at a time."""
    for path in paths:
        name = _layout(path, layouts)
        intake.layouts[path.name] = name
        try:
            for batch in pq.ParquetFile(path).iter_batches(_ROWS, columns=list(layouts[name])):
                intake.rows[path.name] += len(batch)
                yield batch.select(list(layouts[name]))
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: damaged Parquet ({error}); download it again.") from error


def _layout(path: Path, layouts: Mapping[str, tuple[str, ...]]) -> str:
    with open_bytes(path):  # refuses 0 bytes and web pages in words
        pass
    try:
        found = pq.read_schema(path).names
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a whole Parquet file ({error}); download it again.") from error
    for name, columns in layouts.items():
        if set(columns) <= set(found):
            return name
    known = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in layouts.items())
    raise InputError(f"{path}: unknown layout.\n  columns found: {', '.join(found)}\n  known: {known}")
