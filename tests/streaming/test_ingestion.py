"""Ingest and check on Ray: the same bytes as in one process, the same refusals."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from engine.streaming.ingestion import OnRay, check, ingest
from storage.errors import InputError
from storage.ingest import IngestOptions
from storage.ingest import ingest as ingest_in_process
from storage.validation import Choices
from tests.storage import inputs

pytestmark = pytest.mark.usefixtures("ray_cluster")


def digests(store: Path) -> dict[str, str]:
    names = [path for path in store.rglob("*") if path.is_file()]
    return {str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


def written(folder: Path) -> list[str]:
    inputs.cells(90).write_h5ad(folder / "one.h5ad")
    inputs.write_10x_mtx(folder / "two", inputs.counts(50, seed=4), gzipped=True)
    return [str(folder / "one.h5ad"), str(folder / "two")]


def test_members_in_parallel_are_the_members_in_order(tmp_path: Path) -> None:
    files, options = written(tmp_path), IngestOptions(shard_cells=25)
    seen: list[tuple[int, int, str]] = []
    done = ingest(files, str(tmp_path / "ray"), options, report=lambda *step: seen.append(step))
    ingest_in_process(files, tmp_path / "alone", options)
    assert digests(tmp_path / "ray") == digests(tmp_path / "alone")
    assert (done.did_work, done.n_members, done.n_resumed, done.cells) == (True, 6, 0, 140)
    assert seen[0] == (0, 140, "cells")
    assert seen[-1] == (140, 140, "cells")
    assert done.peak_memory_bytes is not None
    again = ingest(files, str(tmp_path / "ray"), options)
    assert (again.did_work, again.cells, again.n_resumed) == (False, 0, 6)


def test_a_refusal_on_a_worker_is_the_refusal_itself(tmp_path: Path) -> None:
    adata = inputs.cells()
    adata.X = adata.X.astype(np.float32).log1p()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(InputError, match="looks log-normalised") as refusal:
        ingest([str(tmp_path / "cells.h5ad")], str(tmp_path / "store"), IngestOptions())
    assert "Traceback" not in str(refusal.value)
    assert not (tmp_path / "store").exists()
    with pytest.raises(InputError, match="7 is bad"):
        list(OnRay()(refuse, [(7,)]))


def refuse(number: int) -> None:
    raise InputError(f"{number} is bad")


def test_full_check_looks_at_every_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = inputs.cells()
    adata.X = adata.X.astype(np.float32)
    adata.X.data[adata.X.nnz // 2] = 2.5
    adata.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr("storage.validation.counts.SAMPLES", 2)
    monkeypatch.setattr("storage.sources.matrices.SAMPLE_ELEMENTS", 20)
    files = [str(tmp_path / "cells.h5ad"), str(tmp_path / "absent.h5ad")]
    sampled = check(files, Choices(), None)
    assert [len(report.errors) for report in sampled] == [0, 1]
    full = check(files, Choices(), None, full=True)
    assert [finding.code for finding in full[0].errors] == ["not-counts"]
    assert "1 of" in full[0].errors[0].message
