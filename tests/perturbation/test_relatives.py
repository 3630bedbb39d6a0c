from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import nnls

from engine.perturbation.gene_sets import GeneSets
from engine.perturbation.relatives import OTHER_CONTEXT, Hits, learn


def _sets(folder: Path, lines: list[str]) -> GeneSets:
    (folder / "sets.gmt").write_text("\n".join(line.replace(" ", "\t") for line in lines))
    return GeneSets.read([str(folder / "sets.gmt")])


def test_a_set_matters_when_its_members_move_the_same_genes(tmp_path: Path) -> None:
    """A1-A4 share an effect and a set; each shares another set with a B, whose effects are its own."""
    lines = ["alike x A1 A2 A3 A4 A5", *[f"pair{n} x A{n} B{n} Z{n}" for n in range(1, 5)]]
    sets = _sets(tmp_path, lines)
    rng = np.random.default_rng(0)
    away = rng.normal(0, 1, (8, 200))
    away[:4] += rng.normal(0, 2, 200)
    hits = Hits([(f"{letter}{n}",) for letter in "AB" for n in range(1, 5)], ["all"] * 8)
    found = learn(away, hits, sets, penalty=1.0)
    assert found.variance_S[0] > 0.5
    assert (found.variance_S[1:] < 0.1).all()
    table = found.between(Hits([("A5",), ("B1",), ("A5", "B1")], ["all", "all", "other"]), hits)
    assert (table[0, :4] > 0.5).all()
    assert np.abs(table[0, 4:]).max() == 0
    np.testing.assert_allclose(table[2], OTHER_CONTEXT * (table[0] + table[1]))


@pytest.mark.parametrize("penalty", [0.5, 20.0])
def test_variances_are_those_of_a_regression_on_all_pairs(tmp_path: Path, penalty: float) -> None:
    rng = np.random.default_rng(1)
    genes = [f"G{n}" for n in range(12)]
    lines = [f"set{n} x " + " ".join(rng.choice(genes, 6, replace=False)) for n in range(7)]
    sets = _sets(tmp_path, lines)
    targets = [(gene,) for gene in genes] + [(genes[0], genes[1]), (genes[2],)]
    contexts = ["left"] * 9 + ["right"] * 5
    away = rng.normal(0, 1, (14, 30)) + rng.normal(0, 1, 30) * (np.arange(14) % 2)[:, None]
    found = learn(away, Hits(targets, contexts), sets, penalty)
    counts = np.array([sets.members(hit).sum(axis=0) for hit in targets])
    alike = away @ away.T / (30 * (away**2).mean())
    pairs = [(p, q) for p in range(14) for q in range(p) if contexts[p] == contexts[q]]
    design = np.array([counts[p] * counts[q] for p, q in pairs])
    wish = np.sqrt(penalty) * np.eye(7)
    expected, _ = nnls(np.vstack([design, wish]), np.append([alike[p, q] for p, q in pairs], np.zeros(7)))
    np.testing.assert_allclose(found.variance_S, expected, atol=1e-8)


def test_without_sets_or_effects_nothing_is_learned(tmp_path: Path) -> None:
    sets = _sets(tmp_path, ["one x A B C"])
    hits = Hits([("A",), ("B",)], ["all", "all"])
    assert learn(np.zeros((2, 5)), hits, sets, 1.0).variance_S.tolist() == [0]
    assert learn(np.ones((2, 5)), Hits([("X",), ("Y",)], ["all", "all"]), sets, 1.0).variance_S.tolist() == [
        0
    ]
