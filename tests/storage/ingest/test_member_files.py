"""A member written in pieces opens with AnnData and is the same bytes however it was fed."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from storage.ingest.member_files import CountsWriter, gene_dtype, group_metadata, put_tables
from storage.locations import Location
from tests.storage import inputs


def write(folder: Path, n_pieces: int) -> dict[str, bytes]:
    adata, location = inputs.cells(), Location.of(folder)
    counts = CountsWriter("dataset_0", 40, np.uint16, location.put)
    for rows in np.array_split(np.arange(60), n_pieces):
        counts.append(adata.X[rows])
    counts.close()
    put_tables("dataset_0", adata.obs, adata.var, location.put)
    location.put("zarr.json", group_metadata({}))
    assert counts.genes_per_cell.tolist() == adata.X.getnnz(1).tolist()
    assert counts.totals_per_cell.tolist() == np.asarray(adata.X.sum(1)).ravel().tolist()
    return {name: location.read(name) for name in location.list()}


def test_member_opens_with_anndata(tmp_path: Path) -> None:
    assert write(tmp_path / "one", 1) == write(tmp_path / "many", 7)
    adata, member = inputs.cells(), anndata.read_zarr(tmp_path / "many" / "dataset_0")
    assert (member.X != adata.X).nnz == 0
    assert (member.X.indices.dtype, member.X.dtype) == (np.uint16, np.uint16)
    pd.testing.assert_frame_equal(member.obs, adata.obs)
    pd.testing.assert_frame_equal(member.var, adata.var)


def test_a_member_without_counts(tmp_path: Path) -> None:
    location = Location.of(tmp_path)
    counts = CountsWriter("dataset_0", 40, np.uint16, location.put)
    counts.append(inputs.counts()[:3] * 0)
    counts.close()
    put_tables("dataset_0", pd.DataFrame(index=list("abc")), inputs.cells().var, location.put)
    assert anndata.read_zarr(tmp_path / "dataset_0").X.toarray().tolist() == [[0] * 40] * 3


@pytest.mark.parametrize(("n_genes", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_gene_dtype(n_genes: int, dtype: type) -> None:
    assert gene_dtype(n_genes) == dtype
