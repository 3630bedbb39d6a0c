"""One schema for the cells of several files; parquet parts give back what went in."""

import numpy as np
import pandas as pd
import pytest

from storage.errors import InputError
from storage.obs_tables import (
    N_GENES,
    columns_as_json,
    columns_from_json,
    conform,
    decode_numbers,
    decode_parts,
    encode_part,
    union_of_columns,
)


def table(names: str, **columns: object) -> pd.DataFrame:
    return pd.DataFrame(columns, index=list(names))


ONE = table(
    "ab",
    cell_type=pd.Categorical(["T", "B"], categories=["T", "B", "NK"]),
    n=np.array([1, 2], np.int32),
    score=[0.5, np.nan],
    good=[True, False],
    text=["x", "y"],
)
TWO = table("c", cell_type=pd.Categorical(["mono"]), n=np.array([7], np.int64), extra=[3])


def test_one_file_keeps_its_types() -> None:
    (columns, again) = (union_of_columns([ONE.iloc[:0]], None), ONE)
    pd.testing.assert_frame_equal(conform(again, columns), ONE)


def test_union_fills_gaps_and_joins_categories() -> None:
    columns = union_of_columns([ONE.iloc[:0], TWO.iloc[:0]], None)
    both = pd.concat([conform(ONE, columns), conform(TWO, columns)])
    assert both.columns.tolist() == ["cell_type", "n", "score", "good", "text", "extra"]
    assert both["cell_type"].cat.categories.tolist() == ["T", "B", "NK", "mono"]
    assert both["n"].tolist() == [1, 2, 7]
    assert [str(both[name].dtype) for name in ("n", "good", "text", "extra")] == [
        "int64",
        "boolean",
        "string",
        "Int64",
    ]
    assert both.loc["c", ["good", "text"]].isna().all()
    assert both["extra"].isna().tolist() == [True, True, False]


def test_mixed_types_become_text() -> None:
    columns = union_of_columns([table("a", v=[1]).iloc[:0], table("b", v=["x"]).iloc[:0]], None)
    assert [conform(table("a", v=[1]), columns)["v"].iloc[0], columns[0].dtype] == ["1", "str"]
    gaps = conform(table("ab", v=["x", None]), columns)
    assert gaps["v"].isna().tolist() == [False, True]


def test_selected_columns() -> None:
    assert [column.name for column in union_of_columns([ONE.iloc[:0]], ["score", "n"])] == ["n", "score"]
    with pytest.raises(InputError, match=r"no file has \['donor'\]"):
        union_of_columns([ONE.iloc[:0]], ["donor"])
    with pytest.raises(InputError, match="store's own"):
        union_of_columns([table("a", _member=[1]).iloc[:0]], None)


def test_parts_give_back_what_went_in() -> None:
    columns = union_of_columns([ONE.iloc[:0], TWO.iloc[:0]], None)
    tables = [conform(ONE, columns), conform(TWO, columns)]
    parts = [
        encode_part(one, number, np.arange(len(one), dtype=np.int32), np.zeros(len(one), np.int64))
        for number, one in enumerate(tables)
    ]
    again = decode_parts(parts, columns_from_json(columns_as_json(columns)))
    pd.testing.assert_frame_equal(again, pd.concat(tables))
    assert decode_parts(parts, columns, ["text", "n"]).columns.tolist() == ["text", "n"]
    assert decode_numbers(parts, N_GENES).tolist() == [0, 1, 0]
    assert parts[0] == encode_part(tables[0], 0, np.arange(2, dtype=np.int32), np.zeros(2, np.int64))
