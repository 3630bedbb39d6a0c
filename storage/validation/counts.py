"""Rules about values: are these raw counts, and which matrix of the file holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.sources import CountMatrix, Source
from storage.validation.findings import Finding

# CellWhisperer's integer test; float32 cannot hold counts above 16.7 million more exactly than this either.
_WHOLE = 1e-6
# log1p of a count of a million is 13.8: a fractional, non-negative matrix below this has been
# log-transformed.
_LOG_MAX = 16.0
LARGEST_COUNT = (1 << 32) - 1
SAMPLES = 48
VALUE_CODES = ("not-finite-counts", "not-counts", "negative-counts", "too-large-counts")
# Layers that by convention hold raw counts.
COUNT_LAYERS = ("counts", "raw_counts", "count")


@dataclass
class ValueScan:
    """What a pass over stored values found; mergeable, so pieces of a file may be scanned apart."""

    n_values: int = 0
    n_nan: int = 0
    n_infinite: int = 0
    n_negative: int = 0
    n_fractional: int = 0
    n_too_large: int = 0
    largest: float = 0.0
    smallest: float = 0.0
    first_bad: str = ""

    @property
    def n_bad(self) -> int:
        return self.n_nan + self.n_infinite + self.n_negative + self.n_fractional + self.n_too_large

    def add(self, values: npt.NDArray[Any], where: str) -> None:
        """Count what is no raw count in `values` (any shape)."""
        before = self.n_bad
        self.n_values += values.size
        if values.dtype.kind == "f":
            values = self._add_fractions(values)
        if values.size:
            low, high = values.min(), values.max()
            self.smallest, self.largest = min(self.smallest, float(low)), max(self.largest, float(high))
            self.n_negative += int((values < 0).sum()) if low < 0 else 0
            self.n_too_large += int((values > LARGEST_COUNT).sum()) if high > LARGEST_COUNT else 0
        if self.n_bad > before and not self.first_bad:
            self.first_bad = where

    def _add_fractions(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        finite = np.isfinite(values)
        if not finite.all():
            n_nan = int(np.isnan(values).sum())
            self.n_nan += n_nan
            self.n_infinite += int((~finite).sum()) - n_nan
            values = values[finite]
        self.n_fractional += int((np.abs(values - np.rint(values)) > _WHOLE).sum())
        return values

    def merge(self, other: ValueScan) -> None:
        for name in ("n_values", "n_nan", "n_infinite", "n_negative", "n_fractional", "n_too_large"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest, self.smallest = max(self.largest, other.largest), min(self.smallest, other.smallest)
        self.first_bad = self.first_bad or other.first_bad

    def findings(self, counts: str, complete: bool) -> list[Finding]:
        """The errors these values are. `complete` says whether all values were looked at, or a sample."""
        looked_at = f"of {self.n_values:,} values" + ("" if complete else " sampled")
        first = f", first in {self.first_bad}"
        found = []
        if self.n_nan or self.n_infinite:
            message = f"{self.n_nan:,} NaN and {self.n_infinite:,} infinite {looked_at}{first}"
            found.append(_error("not-finite-counts", counts, self.n_nan + self.n_infinite, message, _RAW_FIX))
        if self.n_fractional:
            message = f"{self._diagnosis()}: {self.n_fractional:,} {looked_at} are not whole numbers "
            message += f"({self.n_fractional / self.n_values:.0%}), largest {self.largest:.4g}{first}"
            found.append(_error("not-counts", counts, self.n_fractional, message, _RAW_FIX))
        if self.n_negative:
            message = f"{self.n_negative:,} {looked_at} are negative, smallest {self.smallest:.4g}{first}"
            found.append(_error("negative-counts", counts, self.n_negative, message, _RAW_FIX))
        if self.n_too_large:
            message = f"{self.n_too_large:,} {looked_at} exceed {LARGEST_COUNT:,}"
            message += f", largest {self.largest:.4g}{first}"
            found.append(_error("too-large-counts", counts, self.n_too_large, message, _RAW_FIX))
        return found

    def _diagnosis(self) -> str:
        if self.n_negative:
            return "looks scaled (z-scores)"
        if self.largest <= _LOG_MAX:
            return "looks log-normalised"
        return "not raw counts (normalised or corrected)"


_RAW_FIX = "Give raw counts: in X, in .raw, or in a layer named with --counts layer:NAME."


def _error(code: str, where: str, how_many: int, message: str, fix: str) -> Finding:
    return Finding("error", code, where, how_many, message, fix)


@dataclass
class SampledCounts:
    """The matrix that was chosen, what a sample of it says, and its sampled counts per column."""

    counts: str
    findings: list[Finding]
    column_sums: npt.NDArray[np.float64]
    """[n_columns]"""


def choose_counts(source: Source, choice: str) -> SampledCounts:
    """The matrix to use: `auto` takes the first that holds counts of X, raw and the layers named like counts.

    `choice` else is `X`, `raw` or `layer:NAME`. The findings are errors when nothing usable is there.
    """
    if choice != "auto":
        if choice in source.matrices:
            return _sampled(choice, source.matrices[choice])
        message = f"there is no {choice}; the file has {', '.join(source.matrices) or 'no matrix'}"
        return _unusable(_error("no-counts", choice, 0, message, "Choose one of these with --counts."))
    candidates = ["X", "raw", *(f"layer:{name}" for name in COUNT_LAYERS)]
    tried = [_sampled(name, source.matrices[name]) for name in candidates if name in source.matrices]
    if not tried:
        message = f"no X, no raw and no layer named {' or '.join(COUNT_LAYERS)}"
        message += f"; the file has {', '.join(source.matrices) or 'no matrix'}"
        return _unusable(_error("no-counts", "X", 0, message, "Name the matrix with --counts layer:NAME."))
    chosen = next((sample for sample in tried if not sample.findings), tried[0])
    if chosen is not tried[0]:
        message = f"used, because {tried[0].counts} does not hold raw counts"
        chosen.findings.append(Finding("info", "counts-found", chosen.counts, 0, message))
    return chosen


def _unusable(finding: Finding) -> SampledCounts:
    return SampledCounts("", [finding], np.zeros(0))


def _sampled(counts: str, matrix: CountMatrix) -> SampledCounts:
    scan, sums = ValueScan(), np.zeros(matrix.shape[1])
    if matrix.dtype.kind not in "iufb":
        message = f"type {matrix.dtype}, expected numbers"
        return SampledCounts(counts, [_error("not-counts", counts, 0, message, _RAW_FIX)], sums)
    for sample in matrix.samples(SAMPLES):
        scan.add(sample.values, sample.where)
        if not scan.n_bad:
            sums += np.bincount(sample.genes, sample.values, minlength=matrix.shape[1])
    findings = scan.findings(counts, complete=False)
    if not findings and matrix.shape[0] and scan.n_values and not sums.any():
        findings = [_error("not-counts", counts, 0, "every sampled value is zero", _RAW_FIX)]
    return SampledCounts(counts, findings, sums)
