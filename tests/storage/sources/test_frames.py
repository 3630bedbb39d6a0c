"""Tables of cells in every encoding AnnData has used."""

from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest

from storage.sources.frames import StoredFrame, TableFrame, open_frame
from storage.sources.source import UnreadableSource


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "kind": pd.Categorical(["x", None, "y", "x"], categories=["y", "x"], ordered=True),
            "whole": pd.array([1, None, 3, 4], dtype="Int64"),
            "truth": pd.array([True, None, False, True], dtype="boolean"),
            "name": pd.array(["a", None, "c", "d"], dtype="string"),
            "text": ["a", "b", "c", "d"],
            "real": [0.5, np.nan, 1.5, 2.5],
        },
        index=pd.Index(["c0", "c1", "c2", "c3"], name="barcode"),
    )


def test_rows_are_those_of_the_whole(tmp_path: Path) -> None:
    with (
        h5py.File(tmp_path / "t.h5", "w") as root,
        anndata.settings.override(allow_write_nullable_strings=True),
    ):
        anndata.io.write_elem(root, "obs", table())
        frame = open_frame("obs", root["obs"])
        assert isinstance(frame, StoredFrame)
        pd.testing.assert_frame_equal(frame.rows(0, 4), table())
        pd.testing.assert_frame_equal(frame.rows(1, 3), table().iloc[1:3])
        pd.testing.assert_frame_equal(frame.rows(2, 4, ["text", "kind"]), table().iloc[2:][["text", "kind"]])
        assert frame.rows(0, 0).dtypes.equals(table().dtypes)
        assert frame.rows(0, 2, []).index.tolist() == ["c0", "c1"]


def test_a_short_column_is_damage(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.h5", "w") as root:
        anndata.io.write_elem(root, "obs", table()[["real"]])
        del root["obs/real"]
        root["obs/real"] = [1.0, 2.0]
        with pytest.raises(UnreadableSource, match="obs/real: 2 values for 4 rows"):
            open_frame("obs", root["obs"])


def test_one_compound_dataset_as_before_anndata_0_7(tmp_path: Path) -> None:
    records = np.array(
        [(b"c0", 1, b"x"), (b"c1", 2, b"y")], dtype=[("index", "S2"), ("n", "i4"), ("kind", "S1")]
    )
    with h5py.File(tmp_path / "t.h5", "w") as root:
        root["obs"] = records
        frame = open_frame("obs", root["obs"])
        assert isinstance(frame, TableFrame)
        rows = frame.rows(0, 2)
    assert rows.index.tolist() == ["c0", "c1"]
    assert rows["n"].tolist() == [1, 2]
    assert rows["kind"].tolist() == ["x", "y"]


def test_shared_categories_as_in_anndata_0_7(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.h5", "w") as root:
        group = root.create_group("obs")
        group.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0", "_index": "index"})
        group.attrs["column-order"] = np.array(["kind"], dtype=object)
        group["index"] = np.array(["c0", "c1"], dtype=object)
        group["kind"] = np.array([1, 0], dtype="i1")
        group["__categories/kind"] = np.array(["x", "y"], dtype=object)
        group["kind"].attrs["categories"] = group["__categories/kind"].ref
        rows = open_frame("obs", group).rows(0, 2)
    assert rows["kind"].tolist() == ["y", "x"]
    assert rows.index.tolist() == ["c0", "c1"]
