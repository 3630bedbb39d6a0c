import numpy as np
from scipy import sparse

from engine.perturbation.differential import LogTests, mean_of
from engine.perturbation.drawn_cells import DrawnCells
from engine.perturbation.normalise import log_normalised


def test_drawn_cells_are_counts_around_the_mean_asked_for_and_unmoved_genes_stay_unmoved() -> None:
    rng = np.random.default_rng(0)
    rates = rng.gamma(1.0, 2.0, 300)
    control = sparse.csr_matrix(rng.poisson(rates, (400, 300)).astype(np.float32))
    drawn = DrawnCells(control)
    wanted = drawn.mean_G.copy()
    wanted[:5] *= 0.4
    wanted[5:10] += 0.8
    cells = drawn.draw(wanted, 600, rng)
    assert (cells.data == np.rint(cells.data)).all()
    assert cells.data.min() > 0
    reached = mean_of(log_normalised(cells))
    seen = drawn.mean_G > 0.5
    asked = np.abs(wanted - drawn.mean_G)[:10].mean()
    assert np.abs(reached - wanted)[seen].mean() < asked / 8
    assert np.abs(reached - wanted)[:10].mean() < asked / 2
    found = LogTests(log_normalised(control)).test(log_normalised(cells))
    assert found.significant[:10][seen[:10]].mean() > 0.8
    assert found.significant[10:].mean() < 0.1
