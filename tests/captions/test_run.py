"""Captions of real cells: every combination asked for once, resumed, and read back by training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.captions import CaptionSource
from engine.captions.dataset import commit_part
from engine.captions.endpoint import Endpoint, EndpointFailed, Secret
from engine.captions.run import Template, Writer, make_captions
from storage.cells import CellStore
from storage.commits import Dataset
from storage.errors import InputError, LineageMismatch
from storage.locations import Location
from tests.captions.language_model import KEY, Reply, caption_of, good, language_model

COLUMNS = ("cell_type", "condition", "donor")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.captions.run.PART_RECORDS", 4)


def writer(url: str, **others: Any) -> Writer:
    return Writer(Endpoint(url, "m", Secret(KEY), retries=0), COLUMNS, together=4, **others)


def test_every_combination_is_asked_for_once(donor_cells: str, tmp_path: Path) -> None:
    store = CellStore.open(donor_cells)
    obs = store.obs(list(COLUMNS))
    with language_model() as model:
        report = make_captions(donor_cells, writer(model.url), Location.of(tmp_path), on_ray=False)
        again = make_captions(donor_cells, writer(model.url), Location.of(tmp_path), on_ray=False)
    asked = [
        record for body in model.asked for record in json.loads(body["messages"][-1]["content"])["records"]
    ]
    assert report.n_combinations == len(obs.drop_duplicates()) == len(asked)
    assert (report.did_work, again.did_work) == (True, False)
    captions = CaptionSource(file=str(tmp_path)).read(store, store.n_cells)
    said = [captions.texts[number] for number in captions.of_cell_C]
    assert said == [caption_of({k: str(v) for k, v in row.items()}) for row in obs.to_dict("records")]
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_failed_run_goes_on_with_what_is_missing(donor_cells: str, tmp_path: Path) -> None:
    def answer(number: int, records: list[dict[str, Any]]) -> Reply:
        return (500, {}, "out of memory") if number == 2 else good(records)

    with language_model(answer) as model:
        with pytest.raises(EndpointFailed):
            make_captions(donor_cells, writer(model.url), Location.of(tmp_path), on_ray=False)
        assert not (tmp_path / "captions.parquet").exists()
        report = make_captions(donor_cells, writer(model.url), Location.of(tmp_path), on_ray=False)
    assert report.n_resumed == 8
    assert report.n_combinations == 8 + 4 * (len(model.asked) - 3) - (-report.n_combinations % 4)
    with pytest.raises(LineageMismatch, match="temperature"):
        make_captions(donor_cells, writer(model.url, temperature=1.0), Location.of(tmp_path), on_ray=False)


def test_of_two_who_wrote_a_part_the_first_is_believed(donor_cells: str, tmp_path: Path) -> None:
    with language_model() as model:
        make_captions(donor_cells, writer(model.url), Location.of(tmp_path), on_ray=False)
    dataset = Dataset.open(Location.of(tmp_path))
    before = dataset.record("000000")
    commit_part(dataset, "000000", ["another caption of these cells"] * 4)
    assert dataset.record("000000") == before


def test_templates_need_no_model(donor_cells: str, tmp_path: Path) -> None:
    report = make_captions(donor_cells, Template("{cell_type}, donor {donor}"), Location.of(tmp_path))
    obs = CellStore.open(donor_cells).obs()
    table = pq.read_table(tmp_path / "captions.parquet").to_pandas()
    assert report.n_cells == len(table) == len(obs)
    assert table["caption"].tolist() == [
        f"{t}, donor {d}" for t, d in zip(obs["cell_type"], obs["donor"], strict=True)
    ]
    with pytest.raises(InputError, match="names no obs column"):
        make_captions(donor_cells, Template("a cell"), Location.of(tmp_path / "other"))


def test_files_that_do_not_fit_are_refused(donor_cells: str, tmp_path: Path) -> None:
    store = CellStore.open(donor_cells)
    with pytest.raises(InputError, match="is not there"):
        CaptionSource(file=str(tmp_path)).read(store, store.n_cells)
    (tmp_path / "captions.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="is not a parquet file"):
        CaptionSource(file=str(tmp_path / "captions.parquet")).read(store, store.n_cells)
    with pytest.raises(InputError, match="one of them"):
        CaptionSource()


def test_cells_without_a_caption_have_none(donor_cells: str, tmp_path: Path) -> None:
    store = CellStore.open(donor_cells)
    cells = [str(name) for name in store.obs([]).index[:10]][::-1]
    import pandas as pd

    from engine.captions.source import encode_captions

    content = encode_captions(cells, pd.Series([f"caption {n % 2}" for n in range(10)]))
    (tmp_path / "some.parquet").write_bytes(content)
    captions = CaptionSource(file=str(tmp_path / "some.parquet")).read(store, store.n_cells)
    assert captions.texts == ["caption 0", "caption 1"]
    assert captions.of_cell_C[:10].tolist() == [1, 0] * 5
    assert np.all(captions.of_cell_C[10:] == -1)
