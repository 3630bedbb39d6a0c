"""Files of every kind to one store; refusals leave nothing behind; the same input gives the same bytes."""

import hashlib
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from storage.cells import CellStore
from storage.commits import Dataset
from storage.errors import InputError, LineageMismatch
from storage.ingest import IngestOptions, finish_ingest, ingest, plan_ingest, write_member
from tests.storage import inputs


def save(adata: anndata.AnnData, path: Path) -> str:
    adata.write_h5ad(path)
    return str(path)


def digests(store: Path) -> dict[str, str]:
    names = [path for path in store.rglob("*") if path.is_file()]
    return {str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


def matrix_of(store: Path) -> np.ndarray:
    opened = CellStore.open(store)
    return opened.read(0, opened.n_cells).to_csr().toarray()


@pytest.mark.parametrize("kind", ["csr", "csc", "dense", "zarr", "10x h5", "10x mtx"])
def test_every_format_gives_the_same_counts(tmp_path: Path, kind: str) -> None:
    adata = inputs.cells()
    expected = adata.X.toarray()
    if kind == "10x h5":
        path = str(inputs.write_10x_h5(tmp_path / "matrix.h5", adata.X))
    elif kind == "10x mtx":
        path = str(inputs.write_10x_mtx(tmp_path / "mtx", adata.X, True))
    elif kind == "zarr":
        adata.write_zarr(tmp_path / "cells.zarr")
        path = str(tmp_path / "cells.zarr")
    else:
        adata.X = {"csr": adata.X, "csc": sparse.csc_matrix(adata.X), "dense": expected.astype(np.float32)}[
            kind
        ]
        path = save(adata, tmp_path / "cells.h5ad")
    ingest([path], tmp_path / "store", IngestOptions(shard_cells=25))
    assert np.array_equal(matrix_of(tmp_path / "store"), expected)
    assert CellStore.open(tmp_path / "store").genes.index.tolist() == adata.var["ensembl_id"].tolist()
    assert CellStore.open(tmp_path / "store").genes["gene_name"].tolist() == adata.var["gene_name"].tolist()


def test_members_open_with_anndata_and_equal_the_input(tmp_path: Path) -> None:
    adata = inputs.cells()
    ingest([save(adata, tmp_path / "cells.h5ad")], tmp_path / "store", IngestOptions(shard_cells=25))
    for number, start in enumerate([0, 25, 50]):
        member = anndata.read_zarr(tmp_path / f"store/dataset_{number}")
        expected = adata[start : start + 25]
        assert np.array_equal(member.X.toarray(), expected.X.toarray())
        pd.testing.assert_frame_equal(member.obs, adata.obs.iloc[start : start + 25])
        pd.testing.assert_frame_equal(member.var.reset_index(drop=True), adata.var.reset_index(drop=True))


def test_real_file(shared: Path, tmp_path: Path) -> None:
    path = shared / "data" / "pbmc3k.h5ad"
    adata = anndata.read_h5ad(path)
    ingest([str(path)], tmp_path / "store")
    member = anndata.read_zarr(tmp_path / "store/dataset_0")
    assert (member.X != adata.X).nnz == 0
    pd.testing.assert_frame_equal(member.obs, adata.obs)
    pd.testing.assert_frame_equal(CellStore.open(tmp_path / "store").obs(), adata.obs)


def test_counts_beyond_uint16(shared: Path, tmp_path: Path) -> None:
    path = shared / "data" / "cortex_nuclei_allen.h5ad"
    ingest([str(path)], tmp_path / "store", IngestOptions(max_cells=200))
    block = CellStore.open(tmp_path / "store").read(0, 200)
    assert block.counts.dtype == np.uint32
    assert (block.to_csr() != anndata.read_h5ad(path).X[:200]).nnz == 0


def test_duplicates_of_symbol_derived_ids_are_summed(shared: Path, tmp_path: Path) -> None:
    path = shared / "data" / "nsclc_zilionis.h5ad"
    adata = anndata.read_h5ad(path)
    ingest([str(path)], tmp_path / "store")
    store = CellStore.open(tmp_path / "store")
    assert store.n_genes == adata.n_vars - 8
    assert np.array_equal(store.total_counts, np.asarray(adata.X.sum(1)).ravel())
    gene = adata.var["ensembl_id"][
        adata.var["ensembl_id"].duplicated() & (adata.var["ensembl_id"] != "")
    ].iloc[0]
    summed = np.asarray(adata.X[:, (adata.var["ensembl_id"] == gene).to_numpy()].sum(1)).ravel()
    column = store.genes.index.get_loc(gene)
    assert np.array_equal(store.read(0, store.n_cells).to_csr()[:, column].toarray().ravel(), summed)


def test_several_files_become_one_store(tmp_path: Path) -> None:
    one, two = inputs.cells(30, 40, seed=1), inputs.cells(20, 50, seed=2)[:, 10:].copy()
    two.obs["batch"] = 2
    del two.obs["score"]
    paths = [save(one, tmp_path / "one.h5ad"), save(two, tmp_path / "two.h5ad")]
    ingest(paths, tmp_path / "store", IngestOptions(shard_cells=25))
    store = CellStore.open(tmp_path / "store")
    assert store.member_starts.tolist() == [0, 25, 30, 50]
    assert store.genes.index.tolist() == [f"ENSG{i:011d}" for i in range(50)]
    expected = np.zeros((50, 50))
    expected[:30, :40], expected[30:, 10:] = one.X.toarray(), two.X.toarray()
    assert np.array_equal(matrix_of(tmp_path / "store"), expected)
    obs = store.obs()
    assert obs.index.tolist()[::30] == ["cell0-one", "cell0-two"]
    assert obs["source_file"].value_counts().to_dict() == {"one": 30, "two": 20}
    assert obs["score"].isna().tolist() == [False] * 30 + [True] * 20
    assert obs["batch"].isna().tolist() == [True] * 30 + [False] * 20
    for number in range(3):
        assert anndata.read_zarr(tmp_path / f"store/dataset_{number}").n_vars == 50


def test_cell_names_stay_when_files_do_not_share_them(tmp_path: Path) -> None:
    one, two = inputs.cells(5), inputs.cells(5)
    two.obs_names = [f"other{i}" for i in range(5)]
    paths = [save(one, tmp_path / "one.h5ad"), save(two, tmp_path / "two.h5ad")]
    ingest(paths, tmp_path / "store")
    assert CellStore.open(tmp_path / "store").obs([]).index.tolist() == [*one.obs_names, *two.obs_names]


def test_options(tmp_path: Path) -> None:
    adata = inputs.cells()
    n_genes = adata.X.getnnz(1)
    path = save(adata, tmp_path / "cells.h5ad")
    options = IngestOptions(min_genes=12, max_cells=50, obs_columns=("score",), shard_cells=20)
    ingest([path], tmp_path / "store", options)
    store = CellStore.open(tmp_path / "store")
    kept = np.flatnonzero(n_genes[:50] >= 12)
    assert 0 < len(kept) < 50
    assert store.obs().columns.tolist() == ["score"]
    assert store.obs().index.tolist() == adata.obs_names[kept].tolist()
    assert np.array_equal(matrix_of(tmp_path / "store"), adata.X.toarray()[kept])
    with pytest.raises(InputError, match="no cell is left"):
        ingest([path], tmp_path / "none", IngestOptions(min_genes=41))
    assert not (tmp_path / "none").exists()


def test_gene_table(tmp_path: Path) -> None:
    adata = inputs.cells()
    adata.var = adata.var[[]]
    table = tmp_path / "genes.tsv"
    table.write_text("symbol\tensembl_id\n" + "".join(f"G{i}\tENSG{i // 2:011d}\n" for i in range(38)))
    ingest([save(adata, tmp_path / "cells.h5ad")], tmp_path / "store", IngestOptions(genes=str(table)))
    assert CellStore.open(tmp_path / "store").genes.index.tolist() == [
        *(f"ENSG{i:011d}" for i in range(19)),
        "G38",
        "G39",
    ]
    dense = adata.X.toarray()
    assert np.array_equal(matrix_of(tmp_path / "store")[:, 0], dense[:, 0] + dense[:, 1])


def faulty(name: str) -> anndata.AnnData:
    adata = inputs.cells()
    if name == "log-normalised":
        adata.X = adata.X.astype(np.float32).log1p()
    elif name == "without gene ids":
        adata.var = adata.var[["gene_name"]]
    elif name == "duplicate ids":
        adata.var["ensembl_id"] = [adata.var["ensembl_id"].iloc[1], *adata.var["ensembl_id"].iloc[1:]]
    elif name == "no cells":
        adata = adata[:0].copy()
    return adata


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("log-normalised", "not-counts .*looks log-normalised"),
        ("without gene ids", "no-gene-ids"),
        ("duplicate ids", "duplicate-gene-ids"),
        ("no cells", "zero-cells"),
    ],
)
def test_refusals_leave_nothing_behind(tmp_path: Path, name: str, reason: str) -> None:
    path = save(faulty(name), tmp_path / "cells.h5ad")
    with pytest.raises(InputError, match=reason):
        ingest([path], tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_one_fraction_in_the_middle_is_found_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample may miss it; the scan of every value may not."""
    adata = inputs.cells()
    adata.X = adata.X.astype(np.float32)
    adata.X.data[adata.X.nnz // 2] = 2.5
    path = save(adata, tmp_path / "cells.h5ad")
    monkeypatch.setattr("storage.validation.counts.SAMPLES", 2)
    monkeypatch.setattr("storage.sources.matrices.SAMPLE_ELEMENTS", 20)
    with pytest.raises(InputError, match=r"not-counts .*1 of \d+ values are not whole"):
        ingest([path], tmp_path / "store", IngestOptions(shard_cells=10))
    assert not (tmp_path / "store").exists()


def test_same_input_same_bytes_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(inputs.cells(), tmp_path / "cells.h5ad")
    options = IngestOptions(shard_cells=25)
    ingest([path], tmp_path / "whole", options)
    plan = plan_ingest([path], tmp_path / "resumed", options)
    write_member(plan, "000001")

    def unexpected(*_: object) -> None:
        raise AssertionError("a resumed ingest does not scan again")

    monkeypatch.setattr("storage.ingest.scan_members", unexpected)
    again = plan_ingest([path], tmp_path / "resumed", options)
    assert again.tasks == [["000000"], ["000002"]]
    for (key,) in again.tasks:
        write_member(again, key)
    finish_ingest(again)
    assert digests(tmp_path / "whole") == digests(tmp_path / "resumed")
    finished = plan_ingest([path], tmp_path / "whole", options)
    assert finished.dataset.is_complete
    assert finished.tasks == []


def test_other_options_or_inputs_are_refused(tmp_path: Path) -> None:
    path = save(inputs.cells(), tmp_path / "cells.h5ad")
    ingest([path], tmp_path / "store")
    with pytest.raises(LineageMismatch, match="min_genes"):
        ingest([path], tmp_path / "store", IngestOptions(min_genes=3))
    with pytest.raises(LineageMismatch):
        ingest([save(inputs.cells(seed=5), tmp_path / "cells.h5ad")], tmp_path / "store")
    ingest([path], tmp_path / "store", IngestOptions(overwrite=True))
    assert np.array_equal(matrix_of(tmp_path / "store"), inputs.cells(seed=5).X.toarray())


def test_a_file_that_changes_after_the_scan_is_noticed(tmp_path: Path) -> None:
    path = save(inputs.cells(), tmp_path / "cells.h5ad")
    plan = plan_ingest([path], tmp_path / "store", IngestOptions())
    save(inputs.cells(seed=9), tmp_path / "cells.h5ad")
    with pytest.raises(InputError, match="changed while it was read"):
        write_member(plan, "000000")
    assert Dataset.open(tmp_path / "store").pending()


def test_object_store(tmp_path: Path) -> None:
    path = save(inputs.cells(), tmp_path / "cells.h5ad")
    ingest([path], "memory://test-ingest/store", IngestOptions(shard_cells=25))
    store = CellStore.open("memory://test-ingest/store")
    assert np.array_equal(store.read(0, 60).to_csr().toarray(), inputs.cells().X.toarray())
    assert store.genes.shape == (40, 2)


def test_inputs_from_an_object_store(tmp_path: Path) -> None:
    from storage.locations import Location

    save(inputs.cells(), tmp_path / "cells.h5ad")
    inputs.write_10x_mtx(tmp_path / "mtx", inputs.counts(20, seed=1), gzipped=True)
    bucket = Location.of("memory://test-inputs")
    for path in [tmp_path / "cells.h5ad", *(tmp_path / "mtx").iterdir()]:
        bucket.put(str(path.relative_to(tmp_path)), path.read_bytes())
    ingest(["memory://test-inputs/cells.h5ad", "memory://test-inputs/mtx"], tmp_path / "store")
    assert np.array_equal(matrix_of(tmp_path / "store")[60:], inputs.counts(20, seed=1).toarray())


@pytest.mark.slow
def test_every_real_file(shared: Path, tmp_path: Path) -> None:
    for path in sorted((shared / "data").glob("*.h5ad")):
        adata = anndata.read_h5ad(path)
        ingest([str(path)], tmp_path / path.stem)
        store = CellStore.open(tmp_path / path.stem)
        assert store.n_cells == adata.n_obs
        assert np.array_equal(store.total_counts, np.asarray(adata.X.sum(1)).ravel()), path.name
        if store.n_genes == adata.n_vars:  # two files have columns that are one gene
            assert (store.read(0, store.n_cells).to_csr() != adata.X).nnz == 0, path.name
