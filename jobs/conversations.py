"""`syncytium conversations`: what may be asked and said of each cell, by template, for `train-chat`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.anatomy import JobOptions, Outcome, launch
from storage.errors import InputError


@dataclass(kw_only=True)
class Options(JobOptions):
    """Write OUTPUT/conversations.jsonl in LLaVA's format: questions about each cell, its caption for an
    answer, and comparisons of two cells. A file that a language model wrote is read by train-chat alike.
    """

    cells: str
    """Cell store, as `ingest` writes it."""
    caption: str | None = None
    """The answer: an obs column, or a template such as "These seem to be {cell_type} of {tissue}."."""
    captions: str | None = None
    """Instead: parquet file of cells and captions, or the directory that `captions` made."""
    per_cell: int = 1
    """Questions about each cell."""
    pairs: int = 0
    """Comparisons of two cells with different captions."""


def run(options: Options) -> Outcome:
    from engine.captions import CaptionSource
    from engine.captions.conversations import QUESTIONS, conversations
    from engine.training.recipes.chat import FILE
    from storage.cells import CellStore

    output = options.output_location
    if not 1 <= options.per_cell <= len(QUESTIONS) or options.pairs < 0:
        raise InputError(f"--per-cell is 1 to {len(QUESTIONS)}, --pairs at least 0.")
    store = CellStore.open(options.cells)
    n_cells = min(store.n_cells, options.max_cells or store.n_cells)
    captions = CaptionSource(options.caption, options.captions).read(store, n_cells)
    if output.exists(FILE) and not options.overwrite:
        raise InputError(f"{output} holds {FILE} already; give --overwrite to replace it.")
    found = conversations(store, captions, per_cell=options.per_cell, pairs=options.pairs, seed=options.seed)
    lines = [json.dumps(record, ensure_ascii=False) for record in found]
    output.put(FILE, ("\n".join(lines) + "\n").encode())
    return Outcome(
        lineage=captions.lineage, counts_in={"cells": n_cells}, counts_out={"conversations": len(lines)}
    )


def main(argv: Sequence[str] | None = None) -> int:
    return launch("conversations", Options, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
