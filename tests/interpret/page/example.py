"""Content of a page about forty random cells, with names that try to escape from the HTML."""

from __future__ import annotations

import numpy as np

from engine.interpret.gene_ranking import TableOptions
from engine.interpret.names import Names
from engine.interpret.page.content import CellMap, Command, Curve, Measure, PageContent, Series, Step
from engine.interpret.tables import tabulate
from tests.interpret.small_pass import CELLS, FEATURES, GENES, SmallPass

HOSTILE = "</script><img src=x onerror=document.title='hacked'>&<!--"
LABELS = ("B cell", HOSTILE, "T cell")


def example(seed: int = 0) -> PageContent:
    case = SmallPass.random(seed)
    names = Names(
        gene_id_G=[f"ENSG{gene}" for gene in range(GENES)],
        gene_name_G=[HOSTILE if gene == 4 else f"GENE{gene}" for gene in range(GENES)],
        cell_names=[f"cell{cell}" for cell in range(CELLS)],
        cell_labels=[None if code < 0 else LABELS[code] for code in case.label_of_cell],
        labels=LABELS,
    )
    peak_CF = np.zeros((CELLS, FEATURES), np.float32)
    np.maximum.at(peak_CF, case.cell_T[case.gene_tokens], case.activations[case.gene_tokens])
    steps = [float(step) for step in range(20)]
    return PageContent(
        title=f"A page {HOSTILE}",
        lead="About forty cells.",
        footer="None of them is real.",
        quality_note="Nothing was measured.",
        lineage="0123",
        label_column="Cell type",
        street=(Step("Cells", "40", "cells"), Step("Features", "12", "features")),
        cells=CellMap(
            names.cell_names,
            LABELS,
            case.label_of_cell.tolist(),
            np.random.default_rng(0).random((CELLS, 2)).astype(np.float32),
        ),
        tables=tabulate(case.whole(), names, TableOptions(top_genes=5)),
        peak_CF=peak_CF,
        curves=(
            Curve(
                "Loss", "of nothing", "step", (Series("loss", steps, steps[::-1]),), "falls from 19 to 0", 0.0
            ),
        ),
        measures=(Measure("Accuracy", "99 %", "of nothing", ours=True),),
        commands=(Command("syncytium check CELLS.h5ad", "What is wrong with the file."),),
    )
