import numpy as np

from engine.streaming.inputs import Inputs
from engine.streaming.members import Member
from engine.streaming.source import CellSource, arrays_of, member_of, one_row, read_member
from engine.streaming.tokenising import tokens_of
from storage.cells import CellStore

MEMBERS = [Member("000000", 0, 10), Member("000003", 30, 45)]


def test_a_row_carries_its_member_and_its_arrays_without_change():
    arrays = {"a": np.arange(5, dtype=np.int32), "b": np.array([], np.float32), "c": np.array([3], np.uint16)}
    row = one_row(MEMBERS[1], arrays)
    assert member_of(row) == MEMBERS[1]
    for name, found in arrays_of(row).items():
        np.testing.assert_array_equal(found, arrays[name])
        assert found.dtype == arrays[name].dtype


def test_one_read_task_per_member_whatever_parallelism_is_asked_for(small_store):
    store = CellStore.open(str(small_store))
    source = CellSource(store, MEMBERS)
    tasks = source.get_read_tasks(parallelism=64)
    assert len(tasks) == 2
    (row,) = list(tasks[1]())
    assert member_of(row) == MEMBERS[1]
    block = store.read(30, 45)
    for name, found in arrays_of(row).items():
        np.testing.assert_array_equal(found, getattr(block, name))
    assert source.estimate_inmemory_data_size() > 0


def test_tokens_do_not_depend_on_the_range_they_were_read_in(small_store, tahoe_model):
    inputs = Inputs.open(str(small_store), str(tahoe_model))
    tokenise = inputs.tokeniser(64, seed=2)
    whole = tokenise.tokens(inputs.store.read(0, 45)).select(np.arange(30, 45))
    part = tokens_of(tokenise(read_member(inputs.store, MEMBERS[1])))
    np.testing.assert_array_equal(part.ids_T, whole.ids_T)
    np.testing.assert_array_equal(part.values_T, whole.values_T)
    np.testing.assert_array_equal(part.offsets, whole.offsets)
