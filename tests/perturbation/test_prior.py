from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.perturbation.gene_sets import NOTHING_KNOWN, GeneSets
from engine.perturbation.prior import Screened, fit, guessed_by_others
from storage.errors import InputError

GENES = [f"G{number}" for number in range(12)]
ROWS = {gene: number for number, gene in enumerate(GENES)}


def _screened() -> Screened:
    """Targets A1-A4 lower the first genes, B1-B4 the last; each lowers itself where it is measured."""
    rng = np.random.default_rng(0)
    targets = [(f"{letter}{number}",) for letter in "AB" for number in range(1, 5)] + [("G5",), ("G6",)]
    delta = rng.normal(0, 0.02, (len(targets), len(GENES)))
    delta[:4, :3] -= 1
    delta[4:8, -3:] -= 1
    delta[8, 5] = delta[9, 6] = -1.5
    return Screened(delta, targets, ["all"] * len(targets), np.full(len(targets), 500))


@pytest.fixture
def sets(tmp_path: Path) -> GeneSets:
    lines = ["first\tx\tA1\tA2\tA3\tA4\tA5", "second\tx\tB1\tB2\tB3\tB4\tB5", "none\tx\tA1"]
    (tmp_path / "sets.gmt").write_text("\n".join(lines))
    return GeneSets.read([str(tmp_path / "sets.gmt")])


def test_a_new_target_does_what_its_relatives_do_and_loses_its_own_expression(sets: GeneSets) -> None:
    control = {"all": np.full(len(GENES), 2.0)}
    prior = fit(_screened(), control, ROWS, sets)
    assert prior.weights.relatives > 0
    a5, g7, combined = prior.predict([("A5",), ("G7",), ("A5", "B5")], ["all"] * 3)
    assert a5[:3].mean() < -0.6
    assert a5[-3:].mean() > -0.3
    assert g7[7] == pytest.approx(-1.5, abs=0.01)
    assert combined[:3].mean() < -0.6
    assert combined[-3:].mean() < -0.6


def test_without_knowledge_a_new_target_gets_no_more_than_the_mean() -> None:
    screened = _screened()
    prior = fit(screened, {"all": np.full(len(GENES), 2.0)}, ROWS, NOTHING_KNOWN)
    a5 = prior.predict([("A5",)], ["all"])[0]
    assert abs(a5).max() <= abs(screened.delta_PG.mean(axis=0)).max() + 0.1


def test_what_is_trained_on_was_guessed_without_the_target(sets: GeneSets) -> None:
    control = {"all": np.full(len(GENES), 2.0)}
    screened = _screened()
    prior = fit(screened, control, ROWS, sets)
    before = guessed_by_others(prior)
    changed = screened.delta_PG.copy()
    changed[0] += 5
    other = replace(prior, screened=replace(screened, delta_PG=changed))
    np.testing.assert_array_equal(guessed_by_others(other)[0], before[0])
    assert not np.allclose(guessed_by_others(other)[1], before[1])


def test_gene_sets_survive_their_json_and_refuse_what_is_no_gmt(sets: GeneSets, tmp_path: Path) -> None:
    again = GeneSets.from_json(sets.as_json())
    np.testing.assert_array_equal(again.likeness(["A1", "B1"], ["A2"]), sets.likeness(["A1", "B1"], ["A2"]))
    assert sets.likeness(["A1", "B1", "Z"], ["A2"]).ravel().tolist() == pytest.approx([1, 0, 0])
    assert sets.likeness(["Z"], ["Z"])[0, 0] == 1
    (tmp_path / "no.gmt").write_text("a line without tabs\n")
    with pytest.raises(InputError, match="line 1"):
        GeneSets.read([str(tmp_path / "no.gmt")])
