"""Numbers as a byte each, for maps of many cells."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.serving.rooms.cell_view import levels_of

number = st.floats(-1e6, 1e6, width=32) | st.sampled_from([np.nan, np.inf, -np.inf])


@settings(deadline=None)
@given(st.lists(number, max_size=60))
def test_levels_tell_the_numbers_and_zero_tells_what_is_none(values: list[float]) -> None:
    values_N = np.array(values, np.float32)
    before, finite = values_N.copy(), np.isfinite(values_N)
    scores = levels_of(values_N)
    levels = np.frombuffer(scores.levels, np.uint8)
    np.testing.assert_array_equal(values_N, before)
    np.testing.assert_array_equal(levels > 0, finite)
    if finite.any():
        span = scores.high - scores.low
        assert (scores.low, scores.high) == (values_N[finite].min(), values_N[finite].max())
        told = scores.low + (levels[finite].astype(float) - 1) / 254 * span
        # Half a level, what float32 rounds off numbers of this size, and spans that count as none.
        nearest = span / 508 + 1e-6 * max(abs(scores.low), abs(scores.high)) + 1e-12
        assert np.abs(told - values_N[finite]).max() <= nearest
