"""The reader printed in docs/reference/datasets.md reads what we write, and notices damage."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage import embeddings
from storage.locations import Location
from tests.storage.test_embeddings import matrix, observations, write

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "datasets.md"


@pytest.fixture
def reader() -> dict[str, Any]:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)  # noqa: S102 - our own page
    return names


def test_the_printed_reader(reader: dict[str, Any], tmp_path: Path) -> None:
    place, e_CD = Location.of(tmp_path), matrix()
    embeddings.finish_embeddings(write(place, e_CD), observations())
    np.testing.assert_array_equal(reader["read_embeddings"](tmp_path), e_CD)

    place.put("X/c/1/0", b"\0" * place.size("X/c/1/0"))
    with pytest.raises(RuntimeError, match="X/c/1/0 is damaged"):
        reader["read_embeddings"](tmp_path)
    log = "_log/snapshot-00000001.json"
    place.put(log, place.read(log).replace(b'"width":5', b'"width":6'))
    with pytest.raises(RuntimeError, match=r"snapshot-00000001\.json is damaged"):
        reader["read_embeddings"](tmp_path)


def test_every_kind_of_dataset_is_described() -> None:
    from storage import activations, cells, features, index

    page = PAGE.read_text()
    for kind in (activations.KIND, cells.KIND, embeddings.KIND, features.KIND, index.KIND):
        assert f'`kind: "{kind}"`' in page
