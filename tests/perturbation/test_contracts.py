"""Every community's AnnData contract, written and read again."""

from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse

from engine.perturbation.labels import CONTRACTS, targets
from engine.perturbation.normalise import log_normalised
from engine.perturbation.predictions import PredictionFile, on_scale
from engine.perturbation.screen import open_h5ad
from storage.locations import Location

GENES = ["B", "A", "X", "C"]  # as the challenge lists them, not sorted
ASKED = [("A",), ("A", "B")]
# What each community's own reader looks for: columns, control label, a single, a pair, integer counts.
RULES = {
    "cell-eval": (["target_gene", "cell_type", "celltype"], "non-targeting", "A", "A+B", False),
    "vcc2025": (["target_gene", "cell_type", "celltype"], "non-targeting", "A", "A+B", False),
    "vcc2026": (["target_gene", "context"], None, "A", "A+B", True),
    "gears": (["condition", "cell_type"], "ctrl", "A+ctrl", "A+B", False),
    "scperturb": (["perturbation", "cell_line"], "control", "A", "A+B", True),
    "state": (["gene", "cell_type"], "non-targeting", "A", "A+B", False),
}


def _counts(seed: int) -> sparse.csr_matrix:
    counts_CG = np.random.default_rng(seed).poisson(2.0, (5, len(GENES))).astype(np.float32)
    counts_CG[:, 0] += 1  # no cell is empty
    return sparse.csr_matrix(counts_CG)


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_a_contract_is_written_by_its_rules_and_read_as_what_it_says(name: str, tmp_path: Path) -> None:
    contract, path = CONTRACTS[name], tmp_path / "cells.h5ad"
    columns, control, single, pair, counts = RULES[name]
    groups = {
        (context, asked): _counts(number)
        for number, (context, asked) in enumerate(
            (context, asked) for context in ("left", "right") for asked in (*ASKED, ())
        )
        if asked or control
    }
    with PredictionFile(Location.of(path), GENES, contract, "lineage") as file:
        for (context, asked), counts_CG in groups.items():
            file.add(on_scale(counts_CG, contract), asked, "non-targeting", context)

    cells = anndata.read_h5ad(path)
    assert list(cells.var_names) == list(cells.var["gene_name"]) == GENES
    assert list(cells.obs.columns) == columns
    assert all(cells.obs[column].dtype == "category" for column in columns)
    assert set(cells.obs[columns[0]]) == {single, pair, *([control] if control else [])}
    assert set(cells.obs[columns[1]]) == {"left", "right"}
    assert isinstance(cells.X, sparse.csr_matrix)
    assert ("log1p" in cells.uns) is not counts
    assert np.array_equal(cells.X.data, np.rint(cells.X.data)) is counts

    # The uploads of 2026 hold no control cells: whoever reads them knows the label from the real file.
    screen = open_h5ad(
        str(path), context=columns[1], control=control or "non-targeting", needs_controls=control is not None
    )
    assert screen.scale == ("counts" if counts else "log1p")
    assert screen.genes == GENES
    found = {
        (group[0], targets(group[1], screen.control)): matrix
        for group, matrix in screen.stream(list(screen.groups))
    }
    assert set(found) == set(groups)
    for group, counts_CG in groups.items():
        expected = counts_CG if counts else log_normalised(counts_CG)
        np.testing.assert_allclose(found[group].toarray(), expected.toarray(), rtol=1e-6)
