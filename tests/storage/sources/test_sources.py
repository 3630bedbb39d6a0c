"""Every format gives the same cells in blocks, and damaged files are refused with their name."""

import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from storage.errors import InputError
from storage.sources import Source, UnreadableSource, open_source
from tests.storage import inputs


def whole(source: Source, key: str = "X", start: int = 0, stop: int | None = None) -> np.ndarray:
    parts, expected = [], start
    for first, block in source.matrices[key].blocks(start, source.n_cells if stop is None else stop):
        assert first == expected
        expected += block.shape[0]
        parts.append(block)
    return sparse.vstack(parts).toarray()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and buckets of a few rows, so that every file has many."""
    monkeypatch.setattr("storage.sources.matrices.BLOCK_ELEMENTS", 100)
    monkeypatch.setattr("storage.sources.matrices._POINTER_ROWS", 17)
    monkeypatch.setattr("storage.sources.spill.BUCKET_ELEMENTS", 90)


def layouts() -> dict[str, object]:
    return {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": lambda matrix: matrix.toarray()}


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_anndata_in_every_layout(tmp_path: Path, suffix: str, layout: str) -> None:
    adata = inputs.cells()
    expected = adata.X.toarray()
    adata.X = layouts()[layout](adata.X)
    adata.layers["counts"] = layouts()[layout](sparse.csr_matrix(expected * 2))
    adata.raw = adata[:, :30].copy()
    path = str(tmp_path / f"cells{suffix}")
    adata.write_h5ad(path) if suffix == ".h5ad" else adata.write_zarr(path)
    with open_source(path) as source:
        assert list(source.matrices) == ["X", "raw", "layer:counts"]
        assert source.matrices["X"].layout == layout
        assert np.array_equal(whole(source), expected)
        assert np.array_equal(whole(source, start=13, stop=41), expected[13:41])
        assert np.array_equal(whole(source, "layer:counts"), expected * 2)
        assert source.genes_frame("raw").index.tolist() == adata.raw.var_names.tolist()
        pd.testing.assert_frame_equal(source.genes_frame("X"), adata.var)
        again = source.obs.rows(0, 60)
        pd.testing.assert_frame_equal(again, adata.obs)
        pd.testing.assert_frame_equal(source.obs.rows(10, 20, ["score"]), adata.obs[["score"]].iloc[10:20])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_both_zarr_formats(tmp_path: Path, zarr_format: int, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = inputs.cells()
    with anndata.settings.override(zarr_write_format=zarr_format):
        adata.write_zarr(tmp_path / "cells.zarr")
    with open_source(str(tmp_path / "cells.zarr")) as source:
        assert np.array_equal(whole(source), adata.X.toarray())
        assert any(name.endswith(".zgroup") for name in source.objects) == (zarr_format == 2)


def test_zarr_with_missing_chunk_is_refused_not_read_as_zeros(tmp_path: Path) -> None:
    inputs.cells().write_zarr(tmp_path / "cells.zarr")
    chunks = [path for path in (tmp_path / "cells.zarr/X/data").rglob("*") if path.name == "0"]
    chunks[0].unlink()
    with pytest.raises(UnreadableSource, match="X/data: 1 of 1 chunk files are missing"):
        open_source(str(tmp_path / "cells.zarr"))


@pytest.mark.parametrize("before_3", [False, True])
def test_10x_h5(tmp_path: Path, before_3: bool) -> None:
    matrix = inputs.counts()
    with open_source(str(inputs.write_10x_h5(tmp_path / "matrix.h5", matrix, before_3))) as source:
        assert source.format == "10x h5"
        assert np.array_equal(whole(source), matrix.toarray())
        var = source.genes_frame("X")
        assert var.index[:2].tolist() == ["G0", "G1"]
        assert var["gene_ids"].iloc[1] == "ENSG00000000001"
        assert source.obs.rows(3, 4).index.tolist() == ["AAAC-3"]


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("shuffled", [False, True])
def test_10x_mtx(tmp_path: Path, gzipped: bool, shuffled: bool) -> None:
    matrix = inputs.counts()
    folder = inputs.write_10x_mtx(tmp_path / "mtx", matrix, gzipped, shuffled)
    with open_source(str(folder)) as source:
        assert np.array_equal(whole(source), matrix.toarray())
        assert np.array_equal(whole(source, start=7, stop=33), matrix.toarray()[7:33])
        assert source.matrices["X"].empty_cells() == int((np.diff(matrix.indptr) == 0).sum())
        assert source.genes_frame("X")["gene_ids"].iloc[0] == "ENSG00000000000"


@pytest.mark.parametrize("kind", ["csr", "csc", "dense", "mtx"])
def test_samples_are_stored_values_with_their_genes(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.sources.matrices.SAMPLE_ELEMENTS", 50)
    adata = inputs.cells()
    if kind == "mtx":
        path = inputs.write_10x_mtx(tmp_path / "mtx", adata.X, True)
    else:
        path = tmp_path / "cells.h5ad"
        adata.X = layouts()[kind](adata.X)
        adata.write_h5ad(path)
    totals = np.asarray(inputs.cells().X.sum(0)).ravel()
    with open_source(str(path)) as source:
        found = list(source.matrices["X"].samples(1000))
        sums = sum(np.bincount(piece.genes, piece.values, minlength=40) for piece in found)
        assert kind == "mtx" or len(list(source.matrices["X"].samples(3))) <= 3
    assert np.array_equal(sums, totals)


def test_temporary_files_of_a_transpose_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spill"))
    (tmp_path / "spill").mkdir()
    with open_source(str(inputs.write_10x_mtx(tmp_path / "mtx", inputs.counts(), False))) as source:
        whole(source)
        assert list((tmp_path / "spill").iterdir())
    assert not list((tmp_path / "spill").iterdir())


def test_truncated_empty_and_foreign_files_are_refused(tmp_path: Path) -> None:
    good = tmp_path / "good.h5ad"
    inputs.cells().write_h5ad(good)
    (tmp_path / "cut.h5ad").write_bytes(good.read_bytes()[:-3000])
    (tmp_path / "zero.h5ad").touch()
    (tmp_path / "text.h5ad").write_text("not a matrix")
    (tmp_path / "folder").mkdir()
    with h5py.File(tmp_path / "other.h5", "w") as root:
        root["weights"] = np.zeros(3)
    for name, message in {
        "cut.h5ad": "truncated",
        "zero.h5ad": "0 bytes",
        "text.h5ad": "cut.h5ad|signature",
        "folder": "a folder without",
        "other.h5": "weights",
        "absent.h5ad": "does not exist",
    }.items():
        with pytest.raises(InputError, match=message):
            open_source(str(tmp_path / name))


def test_contradictions_inside_a_file_are_refused(tmp_path: Path) -> None:
    for part, change in {
        "X/indices": lambda values: np.append(values[:-1], 40),
        "X/indptr": lambda values: np.append(values[:-1], values[-1] + 5),
    }.items():
        path = tmp_path / f"{part.replace('/', '-')}.h5ad"
        inputs.cells().write_h5ad(path)
        with h5py.File(path, "a") as root:
            root[part][...] = change(root[part][...])
        with pytest.raises(UnreadableSource, match=part), open_source(str(path)) as source:
            whole(source)


def test_matrix_market_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    folder = inputs.write_10x_mtx(tmp_path / "mtx", inputs.counts(), False)
    lines = (folder / "matrix.mtx").read_text().splitlines(keepends=True)
    (folder / "matrix.mtx").write_text("".join(lines[:-3]))
    with open_source(str(folder)) as source, pytest.raises(UnreadableSource, match="cut off"):
        whole(source)
    (folder / "barcodes.tsv").unlink()
    with pytest.raises(UnreadableSource, match=r"barcodes\.tsv"):
        open_source(str(folder))


def test_a_file_that_is_being_written_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "cells.h5ad"
    inputs.cells().write_h5ad(path)
    script = (
        f"import h5py, sys; f = h5py.File({str(path)!r}, 'a'); print('open', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(UnreadableSource, match="another program is writing it"):
            open_source(str(path))
        writer.communicate()
    open_source(str(path)).close()
