"""The pass over a cache, member by member, against all tokens at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.interpret.evaluation.baselines import Statistics
from engine.interpret.evaluation.dictionaries import Autoencoder, SignedBasis
from engine.interpret.evaluation.inputs import GENE, EvaluationInputs
from engine.interpret.evaluation.token_pass import PassPlan, TokenState, member_state, plan_pass
from engine.interpret.evaluation.tokens import EVALUATED, calibration_cells, drawn, read_cells
from engine.models import sae
from engine.models.sae.gene_means import save_gene_means
from storage.errors import InputError
from tests.interpret.inputs import CELLS, GENES, HOOK, SPECIAL, TOKENS_PER_CELL, WIDTH, Place


@pytest.fixture
def inputs(place: Place) -> EvaluationInputs:
    return EvaluationInputs.open(
        str(place.sae), str(place.cache), cells_path=str(place.cells), label="cell_type"
    )


def _state(inputs: EvaluationInputs, share: float = 1.0) -> tuple[TokenState, PassPlan]:
    dictionaries = _dictionaries(inputs)
    calibration = calibration_cells(inputs, seed=0)
    mean_D = calibration.x_TD.mean(0)
    plan = plan_pass(inputs, calibration, dictionaries, mean_D, share=share, probe_cells=20, seed=0)
    state = TokenState.empty(inputs, plan, dictionaries)
    for member in range(3):
        state.merge(member_state(inputs, plan, dictionaries, member))
    return state, plan


def _dictionaries(inputs: EvaluationInputs) -> list[Autoencoder | SignedBasis]:
    return [Autoencoder(sae.load(inputs.sae_path)), SignedBasis(torch.zeros(WIDTH), 3)]


def _all_tokens(inputs: EvaluationInputs) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    parts = [inputs.cache.read(inputs.hook, record.key) for record in inputs.cache.members]
    x_TD = torch.cat([part.acts for part in parts]).float()
    return (
        x_TD,
        np.concatenate([part.token_class for part in parts]),
        np.concatenate([part.cell for part in parts]),
    )


def test_members_add_up_to_all_tokens(inputs: EvaluationInputs) -> None:
    state, _ = _state(inputs)
    x_TD, kind_T, cell_T = _all_tokens(inputs)
    assert state.n_cells == CELLS
    for number, dictionary in enumerate(_dictionaries(inputs)):
        for kind in (GENE, 2):
            x = x_TD[torch.from_numpy(kind_T == kind)]
            explained = dictionary.explain(x)
            error = (x - explained.r_TD).double().square().sum()
            row = state.reconstruction.row(number, state.reconstruction.strata(kind))
            total = (x.double() - x.double().mean(0)).square().sum()
            assert row["fvu"] == pytest.approx(float(error / total), rel=1e-6)
            assert row["l0"] == pytest.approx(float((explained.value_TK > 0).sum() / len(x)))
        genes = dictionary.explain(x_TD[torch.from_numpy(kind_T == GENE)])
        fired = genes.index_TK[genes.value_TK > 0].bincount(minlength=dictionary.n_features)
        np.testing.assert_array_equal(state.activities[number].tokens_F, fired.numpy())
    # Cells kept for probes: the mean of their genes' activations.
    cells, x_CD, codes = state.means.tables()
    assert 5 < len(cells) < 40
    own = (cell_T == cells[0]) & (kind_T == GENE)
    np.testing.assert_allclose(x_CD[0], x_TD[torch.from_numpy(own)].mean(0), rtol=1e-4, atol=1e-5)
    a_TF = sae.load(inputs.sae_path).encode(x_TD[torch.from_numpy(own)]).detach().mean(0)
    np.testing.assert_allclose(codes[0][0].toarray()[0], a_TF, rtol=1e-4, atol=1e-6)


def test_a_sample_is_of_whole_cells_and_the_same_for_everyone(inputs: EvaluationInputs) -> None:
    state, plan = _state(inputs, share=0.4)
    assert 5 < state.n_cells < 50
    cells = read_cells(inputs, 1, plan.seed, EVALUATED, 0.4)
    counts = np.unique(cells.cell_T, return_counts=True)
    assert (counts[1] == TOKENS_PER_CELL).all()
    expected = np.flatnonzero(drawn(plan.seed, EVALUATED, np.arange(CELLS), 0.4))
    np.testing.assert_array_equal(counts[0], expected[(expected >= 20) & (expected < 40)])
    assert state.n_cells == len(expected)


def test_statistics_are_of_genes_alone(inputs: EvaluationInputs) -> None:
    calibration = calibration_cells(inputs, seed=0)
    assert (calibration.kind_T == GENE).all()
    found = Statistics.of(calibration.x_TD, sae.load(inputs.sae_path))
    x_TD, kind_T, _ = _all_tokens(inputs)
    torch.testing.assert_close(found.mean_D, x_TD[torch.from_numpy(kind_T == GENE)].mean(0))


def test_gene_residuals_and_other_tokens_are_what_the_autoencoder_says(place: Place, tmp_path: Path) -> None:
    n_ids, flags = GENES + SPECIAL, (str(place.cache), HOOK)
    means_GD = torch.arange(n_ids * WIDTH).float().view(n_ids, WIDTH)
    metadata = {"hook_name": HOOK, "token_class": "special"}
    sae.save(sae.create(WIDTH, 24, 3, metadata=metadata), tmp_path)
    save_gene_means(means_GD, tmp_path)
    inputs = EvaluationInputs.open(str(tmp_path), flags[0], hook=flags[1])
    state, plan = _state(inputs)
    x_TD, kind_T, _ = _all_tokens(inputs)
    gene_T = np.concatenate([inputs.cache.read(HOOK, record.key).gene for record in inputs.cache.members])
    special = torch.from_numpy(kind_T == 2)
    residual_TD = x_TD[special] - means_GD[torch.from_numpy(gene_T.astype(np.int64))[special]]
    explained = _dictionaries(inputs)[0].explain(residual_TD)
    fired = explained.index_TK[explained.value_TK > 0].bincount(minlength=24)
    np.testing.assert_array_equal(state.activities[0].tokens_F, fired.numpy())
    np.testing.assert_allclose(plan.shift_D, residual_TD.double().mean(0), rtol=1e-5)
    save_gene_means(means_GD[:5], tmp_path)
    with pytest.raises(InputError, match="means of 5 token ids"):
        EvaluationInputs.open(str(tmp_path), flags[0], hook=flags[1])
    (tmp_path / "gene_means.safetensors").unlink()
    sae.save(sae.create(WIDTH, 24, 3, metadata=metadata | {"token_class": "cell"}), tmp_path)
    with pytest.raises(InputError, match="class 'cell'"):
        EvaluationInputs.open(str(tmp_path), flags[0], hook=flags[1])
