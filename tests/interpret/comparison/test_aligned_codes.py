"""Tokens of two caches meet by gene within the cell, whatever their order and members."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.interpret.comparison.aligned_codes import AlignedCodes, aligned_codes, chosen_cells
from engine.interpret.comparison.subjects import Compared
from engine.models import sae
from engine.models.sae.gene_means import save_gene_means
from storage.activations import ActivationCache
from tests.interpret.comparison.conftest import CELLS, Place

Rows = dict[tuple[int, str], torch.Tensor]


def subjects(place: Place, one: str, other: str) -> tuple[Compared, Compared]:
    caches = [ActivationCache.open(place.tahoe), ActivationCache.open(place.geneformer)]
    return Compared.open(place.sae(one), caches), Compared.open(place.sae(other), caches)


def by_gene(subject: Compared) -> Rows:
    """Every gene token of a cache, by cell and gene id."""
    assert subject.source is not None
    cache, found = subject.source.cache, {}
    for record in cache.members:
        tokens = cache.read(subject.source.hook, record.key)
        for row, (cell, gene) in enumerate(zip(tokens.cell.tolist(), tokens.gene.tolist(), strict=True)):
            if cache.genes["class"].iloc[gene] == "gene":
                found[cell, cache.genes["gene_id"].iloc[gene]] = tokens.acts[row].float()
    return found


def aligned(place: Place, one: str, other: str, cells: np.ndarray) -> tuple[AlignedCodes, Rows, Rows]:
    sides = subjects(place, one, other)
    codes = aligned_codes(*sides, cells, "cpu")
    wanted = set(cells.tolist())
    rows = [{key: x for key, x in by_gene(side).items() if key[0] in wanted} for side in sides]
    return codes, *rows


@pytest.mark.parametrize("other", ["lower", "other"])
def test_row_by_row_the_same_gene_of_the_same_cell(place: Place, other: str) -> None:
    cells = np.array([1, 2, 5, 11, 23])
    codes, mine, theirs = aligned(place, "a", other, cells)
    shared = sorted(mine.keys() & theirs.keys())
    assert codes.cell_T.tolist() == [cell for cell, _ in shared]
    if other == "other":  # Geneformer sees fewer genes of a cell
        assert len(shared) < len(mine)
    for found, name, rows in ((codes.one_TF, "a", mine), (codes.other_TG, other, theirs)):
        x_TD = torch.stack([rows[key] for key in shared])
        expected = sae.load(Path(place.sae(name))).encode(x_TD).detach().numpy()
        np.testing.assert_allclose(found.toarray(), expected, atol=1e-5)


def test_gene_residuals_are_read_as_trained_on(place: Place, tmp_path: Path) -> None:
    one, other = subjects(place, "a", "lower")
    assert one.source is not None
    means_GD = torch.randn(len(one.source.cache.genes), 32, generator=torch.Generator().manual_seed(0))
    shutil.copytree(place.sae("a"), tmp_path / "a")
    save_gene_means(means_GD, tmp_path / "a")
    residual = Compared.open(str(tmp_path / "a"), [one.source.cache])
    assert residual.fingerprint != one.fingerprint
    rows = {key: x for key, x in by_gene(one).items() if key[0] == 3}
    number = {gene: token for token, gene in enumerate(one.source.cache.genes["gene_id"])}
    codes = aligned_codes(residual, other, np.array([3]), "cpu")
    x_TD = torch.stack([rows[key] - means_GD[number[key[1]]] for key in sorted(rows)])
    expected = sae.load(tmp_path / "a").encode(x_TD).detach().numpy()
    np.testing.assert_allclose(codes.one_TF.toarray(), expected, atol=1e-5)


def test_pooled_vectors_are_means_of_a_cell(place: Place) -> None:
    codes, mine, theirs = aligned(place, "a", "other", np.arange(CELLS))
    present = np.unique(codes.cell_T)
    assert codes.one.raw_CD.shape == (len(present), 32)
    for row, cell in enumerate(present.tolist()):
        kept = [key for key in sorted(mine.keys() & theirs.keys()) if key[0] == cell]
        mean = torch.stack([theirs[key] for key in kept]).mean(0).numpy()
        np.testing.assert_allclose(codes.other.raw_CD[row], mean, atol=1e-5)
        np.testing.assert_allclose(
            codes.one.codes_CF[[row]].toarray()[0],
            codes.one_TF[codes.cell_T == cell].toarray().mean(axis=0),
            atol=1e-6,
        )


def test_cells_come_from_all_over_the_store_within_the_budget(place: Place) -> None:
    one, other = subjects(place, "a", "other")
    assert one.source is not None
    assert other.source is not None
    assert chosen_cells(one.source, other.source, 10**9, None).tolist() == list(range(CELLS))
    assert chosen_cells(one.source, other.source, 10**9, 7).tolist() == list(range(7))
    few = chosen_cells(one.source, other.source, 1000, None)
    assert few[0] == 0
    assert few[-1] == CELLS - 1
    assert 2 <= len(few) < 8
