"""Conditions: what passes, against pandas; and what is refused, saying where."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from engine.retrieval.conditions import columns_of, parse, passing
from storage.errors import InputError
from storage.index import cell_tables
from tests.retrieval.inputs import clustered

_, OBS = clustered(400)
OBS["organ part"] = OBS["tissue"].astype(str) + "'s"
TABLE = cell_tables.from_buffer(np.frombuffer(cell_tables.to_bytes(cell_tables.table_of(OBS)), np.uint8))

TYPE, GENES, SCORE = OBS["cell_type"], OBS["n_genes"], OBS["score"]
PASSING = {
    "tissue = 'lung'": OBS["tissue"] == "lung",
    "tissue == 'lung'": OBS["tissue"] == "lung",
    "tissue != 'lung'": OBS["tissue"] != "lung",
    "cell_type != 'type 1'": TYPE.notna() & (TYPE != "type 1"),
    "not (cell_type = 'type 1')": TYPE != "type 1",
    "cell_type in ('type 1', 'type 2')": TYPE.isin(["type 1", "type 2"]),
    "cell_type NOT IN ('type 1')": TYPE.notna() & (TYPE != "type 1"),
    "cell_type is missing": TYPE.isna(),
    "cell_type is not missing": TYPE.notna(),
    "n_genes > 500 and n_genes <= 2e3": (GENES > 500) & (GENES <= 2_000),
    "n_genes >= 100.5": GENES >= 101,
    "score < .5": SCORE < 0.5,
    "score is missing": SCORE.isna(),
    "is_control = true": OBS["is_control"],
    "tissue = 'lung' or tissue = 'skin' and n_genes < 1000": (OBS["tissue"] == "lung")
    | ((OBS["tissue"] == "skin") & (GENES < 1_000)),
    "(tissue = 'lung' or tissue = 'skin') and n_genes < 1000": OBS["tissue"].isin(["lung", "skin"])
    & (GENES < 1_000),
    "not not tissue = 'skin'": OBS["tissue"] == "skin",
    "name = 'cell0-17'": OBS.index == "cell0-17",
    "tissue = 'nowhere'": np.zeros(len(OBS), bool),
    "tissue > 'lung'": OBS["tissue"] == "skin",
    "\"organ part\" = 'lung''s'": OBS["tissue"] == "lung",
    "`organ part` in ('skin''s')": OBS["tissue"] == "skin",
}


@pytest.mark.parametrize("text", PASSING)
def test_what_passes(text: str) -> None:
    np.testing.assert_array_equal(passing(parse(text), TABLE), np.asarray(PASSING[text], bool))


def test_a_column_this_segment_lacks_is_missing() -> None:
    table = pa.table({"name": ["a", "b"]})
    assert passing(parse("age > 3"), table).tolist() == [False, False]
    assert passing(parse("not age > 3"), table).tolist() == [True, True]
    assert passing(parse("age is missing"), table).tolist() == [True, True]
    assert columns_of(parse("age > 3 and not (a.b = 1 or c in (1))")) == {"age", "a.b", "c"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a column at character 1, found the end"),
        ("tissue", "expected a comparison .* at character 7, found the end"),
        ("tissue = lung", "expected a number.*single quotes at character 10, found 'lung'"),
        ("tissue = 'a' tissue = 'b'", "expected 'and', 'or' or the end at character 14"),
        ("tissue in 'a'", r"expected '\(' at character 11"),
        ("(tissue = 'a'", r"expected '\)' at character 14"),
        ("tissue = 'a", 'cannot read it from "\'a" on'),
        ("n_genes > 5x", "cannot read it from '5x' on"),
        ("__import__('os')", "expected a comparison"),
        ("and = 1", "expected a column"),
        ("n_genes = 'many'", "values are int64, not comparable with 'many'"),
        ("tissue = 3", "values are string, not comparable with 3.0"),
        ("is_control = 1", "values are bool, not comparable with 1.0"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        passing(parse(text), TABLE)


def test_columns_keep_their_values() -> None:
    table = TABLE.to_pandas()
    assert table["name"].tolist() == OBS.index.tolist()
    pd.testing.assert_series_equal(table["n_genes"], GENES, check_index=False)
    assert table["cell_type"].astype(object).where(table["cell_type"].notna(), None).tolist() == TYPE.tolist()


def test_conditions_inside_each_other_have_an_end() -> None:
    assert parse("(" * 60 + "a = 1" + ")" * 60) == parse("a = 1")
    for deep in ("(" * 2_000 + "a = 1" + ")" * 2_000, "not " * 2_000 + "a = 1"):
        with pytest.raises(InputError, match="inside each other"):
            parse(deep)
