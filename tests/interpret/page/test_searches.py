"""The pictures of searches: every cell, those found over them, and no text that is markup."""

import re

import numpy as np

from engine.interpret.page.content import Measure, TextSearch
from engine.interpret.page.searches import HEIGHT, MARGIN, WIDTH, scaled, searches_html

PLACES = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
HOSTILE = "</svg><script>alert(1)</script>"


def test_cells_found_are_lit_by_whether_they_are_right() -> None:
    search = TextSearch("B cell", "CD19+ B", (3, 7, 9), (True, False, True), "match")
    section = searches_html(
        [search], PLACES, [Measure("Cell to text", "65 %", "of cells", ours=True)], "note"
    )
    assert section.count('class="right"') == 2
    assert section.count('class="wrong"') == 1
    assert len(re.findall("M[^M]+h.1", section)) == 40
    assert "2 of the 3 cells found are CD19+ B; verdict on the best: match" in section
    x, y = scaled(PLACES)[3]
    assert f'cx="{x:.1f}" cy="{y:.1f}"' in section


def test_texts_are_text() -> None:
    search = TextSearch(HOSTILE, HOSTILE, (0,), (True,), HOSTILE)
    assert "<script" not in searches_html([search], PLACES, [Measure(HOSTILE, HOSTILE, HOSTILE)], HOSTILE)
    assert searches_html([], PLACES, [], "nothing was asked") == ""


def test_places_fill_the_picture_and_keep_their_shape() -> None:
    spots = scaled(np.array([[0, 0], [10, 0], [0, 1]], np.float32))
    assert (spots >= MARGIN - 1e-6).all()
    assert (spots <= np.array([WIDTH, HEIGHT]) - MARGIN + 1e-6).all()
    lengths = np.linalg.norm(spots[1:] - spots[0], axis=1)
    np.testing.assert_allclose(lengths[0], 10 * lengths[1])
    assert spots[2, 1] < spots[0, 1]  # up is up
