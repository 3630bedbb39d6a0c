"""What the demo's page says about searching in words."""

from __future__ import annotations

from collections.abc import Mapping

from engine.interpret.page.content import Measure

SEARCHES = (
    "A joint model learnt from half of the cells which words go with them; the index holds all. Lit: the ten "
    "cells found, filled where they are of the type asked for, rings where not. The verdict says whether a "
    "score like the best one's was mostly right for other types. Cell to text and text to cell are of "
    "the half not learnt from; the other two figures, which read no text, are of all cells."
)


def held_out_measures(held_out: Mapping[str, float], measures: Mapping[str, float]) -> tuple[Measure, ...]:
    """What the joint model does on the half of the cells it has not seen, beside what reads no text."""

    def share(value: float) -> str:
        return f"{100 * value:.1f} %"

    return (
        Measure(
            "Cell to text",
            share(held_out["held_out_cell_to_text_at_1"]),
            "of held-out cells have their own type's text nearest",
            ours=True,
        ),
        Measure(
            "Text to cell",
            share(held_out["held_out_text_to_cell_at_1"]),
            "of the texts have a held-out cell of their type nearest",
            ours=True,
        ),
        Measure(
            "Commonest cell type", share(measures["majority_share"]), "right without looking at the cell"
        ),
        Measure(
            "PCA neighbours",
            share(measures["neighbour_accuracy_pca"]),
            "get their type from neighbours with known types; reads labels, no text (5 folds)",
        ),
    )
