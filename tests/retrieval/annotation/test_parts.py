"""Parts of an annotation: a run that is killed goes on, and its file is the one of a run that was not."""

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest

from engine.retrieval.annotation import parts, run
from engine.retrieval.annotation.inputs import AnnotationInputs
from engine.retrieval.annotation.run import AnnotationOptions, annotate, parts_location
from storage import annotation_parts
from storage.annotation_parts import MAP, Parts
from storage.commits import Dataset
from storage.errors import LineageMismatch
from tests.retrieval.blood import TYPES, Blood

OPTIONS = AnnotationOptions(n_top=5, landmarks=40)


class Killed(Exception):
    """Instead of a signal, which would end the test."""


@pytest.fixture
def inputs(blood: Blood, monkeypatch: pytest.MonkeyPatch) -> AnnotationInputs:
    monkeypatch.setattr(parts, "FEWEST_CELLS", 90)
    return AnnotationInputs.open(blood.store, blood.joint, ",".join(TYPES), fields=["cell_type"])


def killed_after(n_parts: int) -> Callable[..., int]:
    """`make_part` that is killed when so many parts are committed, in the middle of the next one."""
    made = []
    whole = parts.make_part

    def make(work: parts.PartWork, dataset: Dataset, key: str) -> int:
        if len(made) == n_parts:
            dataset.member(key).put(f"{key}/x.values.f32", b"torn")
            raise Killed
        made.append(key)
        return whole(work, dataset, key)

    return make


@pytest.mark.parametrize("killed_at", [2, 7, "writing"])
def test_a_killed_run_goes_on_with_what_is_missing(
    inputs: AnnotationInputs,
    blood: Blood,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: int | str,
) -> None:
    embeddings, output = inputs.embeddings(blood.embeddings), tmp_path / "cells.h5ad"
    annotate(inputs, embeddings, OPTIONS, str(tmp_path / "whole.h5ad"))
    with monkeypatch.context() as killed:
        if killed_at == "writing":
            killed.setattr(run, "uns_of", lambda *given: (_ for _ in ()).throw(Killed))
        else:
            killed.setattr(parts, "make_part", killed_after(int(killed_at)))
        with pytest.raises(Killed):
            annotate(inputs, embeddings, OPTIONS, str(output))
    assert not output.exists()
    left = Dataset.open(parts_location(str(output))).pending()
    assert len(left) == (0 if killed_at == "writing" else 9 - int(killed_at))
    made: list[str] = []
    whole = parts.make_part
    monkeypatch.setattr(parts, "make_part", lambda *given: (made.append(given[2]), whole(*given))[1])
    # Of other options nothing is taken up.
    with pytest.raises(LineageMismatch):
        annotate(inputs, embeddings, AnnotationOptions(n_top=6, landmarks=40), str(output))
    annotate(inputs, embeddings, OPTIONS, str(output))
    assert made == [member.key for member in left]
    assert output.read_bytes() == (tmp_path / "whole.h5ad").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "whole.h5ad"]


def test_genes_come_in_blocks_of_so_many_values(
    inputs: AnnotationInputs, blood: Blood, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "remove", lambda location: None)
    annotate(inputs, inputs.embeddings(blood.embeddings), OPTIONS, str(tmp_path / "x.h5ad"))
    monkeypatch.setattr(annotation_parts, "_MOST_VALUES", 20_000)
    found = Parts(Dataset.open(parts_location(str(tmp_path / "x.h5ad"))))
    blocks = list(found.genes(300))
    assert len(blocks) > 3
    assert [first for first, _ in blocks[1:]] == list(np.cumsum([rows.shape[0] for _, rows in blocks])[:-1])
    stored = anndata.read_h5ad(tmp_path / "x.h5ad").X
    np.testing.assert_array_equal(np.concatenate([rows.data for _, rows in blocks]), stored.data)
    assert len(found.read(MAP, "rows.i64")) == 40
