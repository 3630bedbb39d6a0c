"""The searches of the page: a map for each question with the cells it found, drawn here, without a script."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from engine.interpret.page.content import Measure, TextSearch
from engine.interpret.runs import Float32

WIDTH, HEIGHT, MARGIN = 320, 250, 12


def searches_html(
    searches: Sequence[TextSearch], place_C2: Float32, measures: Sequence[Measure], note: str
) -> str:
    """The section, or nothing where nothing was asked. All text is escaped."""
    if not searches:
        return ""
    figures = "".join(_figure(search, place_C2) for search in searches)
    rows = "".join(
        f"<div{' class=ours' if measure.ours else ''}><dt>{html.escape(measure.name)}</dt>"
        f'<dd class="figure">{html.escape(measure.figure)}</dd>'
        f'<dd class="note">{html.escape(measure.note)}</dd></div>'
        for measure in measures
    )
    return (
        '<section aria-labelledby="searches-title"><div class="section-head">'
        '<h2 id="searches-title">Asked in words</h2>'
        f"<p>{html.escape(note)}</p></div>"
        f'<div class="searches">{figures}</div><dl class="measures">{rows}</dl></section>'
    )


def _figure(search: TextSearch, place_C2: Float32) -> str:
    """All cells as faint dots, over them those found: filled where they are what was asked for, or rings."""
    spots = scaled(place_C2)
    faint = "".join(f"M{x:.0f} {y:.0f}h.1" for x, y in spots)
    lit = "".join(
        f'<circle cx="{spots[cell][0]:.1f}" cy="{spots[cell][1]:.1f}" r="4.5" '
        f'class="{"right" if right else "wrong"}"/>'
        for cell, right in zip(search.found, search.right, strict=True)
    )
    says = f"{sum(search.right)} of the {len(search.found)} cells found are {search.wanted}"
    return (
        f'<figure class="pane"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(says)}"><path class="faint" d="{faint}"/>{lit}</svg>'
        f"<figcaption><strong>{html.escape(search.question)}</strong><br>{html.escape(says)}; "
        f"verdict on the best: {html.escape(search.verdict)}</figcaption></figure>"
    )


def scaled(place_C2: Float32) -> np.ndarray:
    """Places in the picture [C, 2], both axes to the same scale."""
    low, high = place_C2.min(axis=0), place_C2.max(axis=0)
    scale = min((np.array([WIDTH, HEIGHT]) - 2 * MARGIN) / np.maximum(high - low, 1e-6))
    centred = (place_C2 - (low + high) / 2) * scale
    spots: np.ndarray = centred * [1, -1] + np.array([WIDTH, HEIGHT]) / 2
    return spots
