"""Lookups a piece at a time."""

import numpy as np

from engine.models import lookup


def test_look_up_is_indexing_over_many_pieces() -> None:
    table = np.arange(1_000, dtype=np.int32)[::-1]
    places = np.random.default_rng(0).integers(0, 1_000, 3 * lookup._ENTRIES + 7).astype(np.uint16)
    found = lookup.look_up(table, places)
    assert found.dtype == table.dtype
    assert np.array_equal(found, table[places])


def test_nothing_is_looked_up_for_no_entry() -> None:
    assert len(lookup.look_up(np.arange(3), np.empty(0, np.int32))) == 0


def test_pieces_cover_everything_once() -> None:
    n = 2 * lookup._ENTRIES + 1
    assert [part.stop - part.start for part in lookup.pieces(n)] == [lookup._ENTRIES, lookup._ENTRIES, 1]
