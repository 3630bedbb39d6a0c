"""Reading shuffled cells: the right counts, exact resume, workers that partition the stream, refusals."""

from itertools import islice

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from storage.cells import CellRows, CellStore
from storage.errors import InputError
from storage.ingest import IngestOptions, ingest
from storage.shuffled_cells import ReadingState, ShuffledCells, read_cells, runs

N_CELLS, N_GENES = 230, 40


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CellStore:
    """Three members; the first gene's count is the number of the cell."""
    import anndata

    rng = np.random.default_rng(0)
    counts = rng.poisson(0.7, (N_CELLS, N_GENES)).astype(np.float32)
    counts[:, 0] = np.arange(N_CELLS) + 1
    obs = pd.DataFrame(
        {"cell_type": ["T"] * 200 + ["B"] * 30}, index=[f"cell{number}" for number in range(N_CELLS)]
    )
    var = pd.DataFrame(index=[f"ENSG{gene:011d}" for gene in range(N_GENES)])
    folder = tmp_path_factory.mktemp("cells")
    anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=var).write_h5ad(folder / "cells.h5ad")
    ingest([str(folder / "cells.h5ad")], str(folder / "store"), IngestOptions(shard_cells=100))
    return CellStore.open(str(folder / "store"))


def shuffled(store: CellStore, **more: object) -> ShuffledCells:
    chosen = {"batch": 12, "seed": 4, "buffer": 48, "block": 8} | more
    return ShuffledCells(store, **chosen)  # type: ignore[arg-type]


def numbers(rows: CellRows) -> list[int]:
    return (rows.counts[rows.indptr[:-1]].astype(int) - 1).tolist()


def test_parts_hold_the_cells_of_their_positions(store: CellStore) -> None:
    assert len(store.member_starts) == 4
    reading = shuffled(store)
    whole = store.read(0, N_CELLS).to_csr()
    for number, rows in enumerate(islice(reading.batches(), 30)):
        cells = reading.order.cells(number * 12, number * 12 + 12)
        assert numbers(rows) == cells.tolist()
        assert (rows.to_csr() != whole[cells]).nnz == 0
        assert (rows.indptr.dtype, rows.indices.dtype, rows.counts.dtype) == (np.int64, np.int32, np.uint16)


def test_a_resumed_reading_equals_an_uninterrupted_one(store: CellStore) -> None:
    reading = shuffled(store, balance="cell_type", temperature=2.0)
    whole = [numbers(rows) for rows in islice(reading.batches(), 40)]
    state = ReadingState(**reading.state(17 * 12).as_json())
    again = shuffled(CellStore.open(store.location), balance="cell_type", temperature=2.0)
    rest = again.batches(again.resume(state))
    assert [numbers(rows) for rows in islice(rest, 23)] == whole[17:]
    assert state.epoch == 17 * 12 // reading.order.epoch_cells == 1


@pytest.mark.parametrize("world", [1, 2, 3])
def test_workers_partition_the_stream(store: CellStore, world: int) -> None:
    """And a reading goes on exactly on another number of workers."""
    reading = shuffled(store)
    whole = [numbers(rows) for rows in islice(reading.batches(), 25)]
    position = reading.resume(reading.state(5 * 12, world=2), world)
    workers = [reading.batches(position, rank, world) for rank in range(world)]
    for batch in whole[5:]:
        assert [number for worker in workers for number in numbers(next(worker))] == batch


def test_a_state_that_cannot_be_continued_is_refused(store: CellStore) -> None:
    reading = shuffled(store)
    with pytest.raises(InputError, match="divide the batch of 12"):
        reading.resume(reading.state(24, world=2), world=5)
    with pytest.raises(InputError, match="cannot be continued"):
        shuffled(store, seed=5).resume(reading.state(24))
    with pytest.raises(InputError, match="cannot be continued"):
        shuffled(store, balance="cell_type").resume(reading.state(24))
    with pytest.raises(InputError, match="cannot be cut for 5 workers"):
        reading.batches(0, 0, 5)


def test_balance_by_a_column(store: CellStore) -> None:
    reading = shuffled(store, balance="cell_type", temperature=float("inf"))
    cells = np.concatenate([numbers(rows) for rows in islice(reading.batches(), 100)])
    assert abs((cells >= 200).mean() - 0.5) < 0.02
    with pytest.raises(InputError, match="cell_type"):
        shuffled(store, balance="tissue")


def test_only_the_first_cells(store: CellStore) -> None:
    cells = np.concatenate([numbers(rows) for rows in islice(shuffled(store, n_cells=20).batches(), 10)])
    assert np.unique(cells).tolist() == list(range(20))


def test_the_reader_stops_with_its_user(store: CellStore) -> None:
    import threading

    batches = shuffled(store).batches()
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not any(thread.name.startswith("shuffled-cells") for thread in threading.enumerate())


def test_read_cells_in_any_order_with_repeats(store: CellStore) -> None:
    assert numbers(read_cells(store, np.array([150, 3, 150, 99, 100]))) == [150, 3, 150, 99, 100]


def test_rows_go_to_torch_without_a_copy(store: CellStore) -> None:
    rows = next(shuffled(store).batches())
    indptr, indices, counts = rows.to_torch()
    assert counts.long().sum().item() == rows.counts.sum()
    assert indices.data_ptr() == rows.indices.ctypes.data
    assert indptr.tolist() == rows.indptr.tolist()


def test_runs_join_consecutive_cells() -> None:
    assert runs(np.array([3, 4, 5, 9, 11, 12])) == [(3, 6), (9, 10), (11, 13)]
    assert runs(np.empty(0, np.int64)) == []
