"""Which matrix holds raw counts, and why another does not."""

from pathlib import Path

import anndata
import numpy as np
import pytest

from storage.sources import open_source
from storage.validation.counts import ValueScan, choose_counts
from tests.storage import inputs


def scanned(values: list[float], dtype: type = np.float32) -> set[str]:
    scan = ValueScan()
    scan.add(np.array(values, dtype), "here")
    return {finding.code for finding in scan.findings("X", complete=True)}


def test_what_is_no_count() -> None:
    assert scanned([0, 1, 2.0000001, 70_000]) == set()
    assert scanned([1, 2], np.int64) == set()
    assert scanned([1.5, 2]) == {"not-counts"}
    assert scanned([-1, 2]) == {"negative-counts"}
    assert scanned([np.nan, 2, np.inf]) == {"not-finite-counts"}
    assert scanned([1 << 33], np.int64) == {"too-large-counts"}


def test_diagnosis_says_what_the_values_look_like() -> None:
    def message(values: np.ndarray) -> str:
        scan = ValueScan()
        scan.add(values.astype(np.float32), "cells 0-9")
        return scan.findings("X", complete=False)[0].message

    counts = np.arange(1, 2000)
    assert "looks log-normalised" in message(np.log1p(counts))
    assert "largest 7.6" in message(np.log1p(counts))
    assert "first in cells 0-9" in message(np.log1p(counts))
    assert "scaled" in message((counts - 900) / 333)
    assert "normalised or corrected" in message(counts * 1.7)


def test_scans_of_pieces_merge() -> None:
    whole, first, second = ValueScan(), ValueScan(), ValueScan()
    values = np.array([1, 2, np.nan, 3.5, -2, 9], np.float64)
    whole.add(values, "all")
    first.add(values[:3], "one")
    second.add(values[3:], "two")
    first.merge(second)
    assert (first.n_bad, first.largest, first.smallest) == (whole.n_bad, whole.largest, whole.smallest)
    assert first.first_bad == "one"


def logged(adata: anndata.AnnData) -> anndata.AnnData:
    copy = adata.copy()
    copy.X = adata.X.astype(np.float32).log1p()
    return copy


@pytest.mark.parametrize(
    ("place", "choice", "expected"),
    [
        ("X", "auto", "X"),
        ("raw", "auto", "raw"),
        ("layer", "auto", "layer:counts"),
        ("layer", "layer:counts", "layer:counts"),
    ],
)
def test_counts_are_found_where_they_are(tmp_path: Path, place: str, choice: str, expected: str) -> None:
    adata = inputs.cells()
    if place != "X":
        counts, adata = adata, logged(adata)
        if place == "raw":
            adata.raw = counts
        else:
            adata.layers["counts"] = counts.X
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with open_source(str(tmp_path / "cells.h5ad")) as source:
        sampled = choose_counts(source, choice)
        assert sampled.counts == expected
        assert np.array_equal(sampled.column_sums, np.asarray(inputs.cells().X.sum(0)).ravel())
        assert [finding.code for finding in sampled.findings] == (
            ["counts-found"] if place != "X" and choice == "auto" else []
        )


def test_a_matrix_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    inputs.cells().write_h5ad(tmp_path / "cells.h5ad")
    with open_source(str(tmp_path / "cells.h5ad")) as source:
        (finding,) = choose_counts(source, "layer:umi").findings
    assert finding.code == "no-counts"
    assert "the file has X" in finding.message
