"""Lineage: any JSON resumes with itself and with nothing else."""

import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import LineageMismatch
from storage.locations import Location
from storage.protocol.lineage import side_by_side
from storage.protocol.snapshots import canonical
from tests.storage.small_datasets import planned

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


LINEAGES = st.dictionaries(st.text("abcdef", min_size=1, max_size=4), JSON, max_size=4)


@settings(deadline=None, max_examples=40)
@given(lineage=LINEAGES, other=LINEAGES)
def test_any_json_lineage_resumes_with_itself_only(lineage: dict[str, Any], other: dict[str, Any]) -> None:
    place = Location.of(f"memory://{uuid.uuid4().hex}")
    first = planned(place, lineage=lineage)
    assert planned(place, lineage=lineage).lineage_id == first.lineage_id
    if canonical(lineage) != canonical(other):
        with pytest.raises(LineageMismatch, match="another lineage"):
            planned(place, lineage=other)
        assert "*" in side_by_side({"x": 1, **lineage}, {"x": 2, **other})
