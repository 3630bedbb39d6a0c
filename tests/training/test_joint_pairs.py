"""Parts of the joint recipe: who is held out, thinned cells, weights by density, which checkpoint is best."""

import numpy as np
import pytest

from engine.captions import CaptionSource
from engine.training.judging import Judge
from engine.training.recipe import SCORE
from engine.training.recipes.joint import Split, Values
from engine.training.recipes.joint.pairs import thinned
from engine.training.recipes.joint.weights import radius_weights
from storage.cells import CellStore
from storage.errors import InputError


def test_whole_groups_are_held_out(donor_cells: str) -> None:
    store = CellStore.open(donor_cells)
    donors = store.obs(["donor"])["donor"].astype(str).to_numpy()
    usable_C = np.ones(store.n_cells, bool)
    held_C = Split(by="donor", share=0.1).held_out(store, usable_C, seed=0)
    assert len(set(donors[held_C])) == 1
    assert not set(donors[held_C]) & set(donors[~held_C])
    usable_C[:50] = False
    assert not Split(share=0.5).held_out(store, usable_C, seed=0)[:50].any()
    assert not Split(share=0.0).held_out(store, usable_C, seed=0).any()
    with pytest.raises(InputError, match="one group"):
        Split(by="tissue").held_out(store, usable_C, seed=0)
    with pytest.raises(InputError, match="none is left to learn"):
        Split(hold_out=Values("donor", ("101", "107"))).held_out(store, usable_C, seed=0)


def test_cells_to_choose_are_named_by_column_and_values() -> None:
    assert Values.parse("donor = a, b", "--hold-out") == Values("donor", ("a", "b"))
    for text in ("donor", "donor=", "=a"):
        with pytest.raises(InputError, match="--hold-out"):
            Values.parse(text, "--hold-out")


def test_thinned_cells_lose_molecules_and_gain_none(donor_cells: str) -> None:
    rows = CellStore.open(donor_cells).read(0, 60)
    thin = thinned(rows, 0.2, seed=1, positions=np.arange(40, 100))
    before, after = rows.to_csr().toarray(), thin.to_csr().toarray()
    assert (after <= before).all()
    kept = after.sum(1) / before.sum(1)
    assert 0.1 < kept.min() < 0.4
    assert 0.8 < kept.max() <= 1.0
    assert (thin.counts > 0).all()
    part = thinned(CellStore.open(donor_cells).read(50, 60), 0.2, seed=1, positions=np.arange(90, 100))
    assert np.array_equal(part.to_csr().toarray(), after[50:])
    assert thinned(rows, 1.0, seed=1, positions=np.arange(60)) is rows


def test_crowded_samples_weigh_less() -> None:
    random = np.random.default_rng(0)
    crowd, rest = random.normal(0, 0.1, (80, 6)), random.normal(5, 2.0, (40, 6))
    f_ND = np.vstack([crowd, rest, np.full((1, 6), np.nan)]).astype(np.float32)
    weights = radius_weights(f_ND)
    assert weights[:80].max() < weights[80:120].min()
    assert weights[120] == 0
    assert weights[:120].mean() == pytest.approx(1.0, abs=1e-5)
    assert radius_weights(np.ones((5, 3), np.float32)).tolist() == [1.0] * 5


def test_neighbours_among_a_sample_are_as_far(monkeypatch: pytest.MonkeyPatch) -> None:
    f_ND = np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)
    whole = radius_weights(f_ND)
    monkeypatch.setattr("engine.training.recipes.joint.weights.MOST_REFERENCES", 1000)
    assert np.corrcoef(np.log(whole), np.log(radius_weights(f_ND)))[0, 1] > 0.9


def test_the_first_of_the_best_judgements_counts() -> None:
    class Recipe:
        judge_every, patience = 5, 2

        def judge(self, *_: object) -> dict[str, float]:
            return {SCORE: scores.pop(0)}

    scores = [0.1, 0.5, 0.5, 0.2]
    judge = Judge(Recipe())  # type: ignore[arg-type]
    found = []
    for steps in (5, 10, 15, 20):
        judge.judge(None, None, None, steps)  # type: ignore[arg-type]
        found.append((judge.best_step, judge.has_enough))
    assert found == [(5, False), (10, False), (10, False), (10, True)]
    assert (judge.is_due(25), judge.is_due(26)) == (True, False)


def test_captions_are_numbered_alike_everywhere(donor_cells: str) -> None:
    store = CellStore.open(donor_cells)
    captions = CaptionSource("{cell_type}, {donor}").read(store, 100)
    assert captions.texts == sorted(captions.texts)
    assert len(captions.of_cell_C) == 100
    assert captions.lineage == CaptionSource("{cell_type}, {donor}").read(store, 100).lineage
    assert captions.lineage != CaptionSource("{cell_type}").read(store, 100).lineage
