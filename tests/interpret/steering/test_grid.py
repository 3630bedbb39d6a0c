"""All versions of a batch at once are what each version is by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.interpret.steering.design import Design, Experiment, Variant
from engine.interpret.steering.edits import parse_edits
from engine.interpret.steering.grid import EditGrid, repeated
from engine.models import sae
from engine.models.encoder import Encoder
from engine.models.interventions import FeatureEdit, Reading, delta, reconstruct
from tests.models.small_models import small_geneformer, small_tahoe, tokens_of

HOOK = "resid_post_0"
EDITS = (FeatureEdit(3, "add", 2.0), FeatureEdit(9, "ablate"))
STRONGER = (FeatureEdit(3, "add", 5.0), FeatureEdit(12, "clamp", 1.0))


@pytest.fixture(params=["tahoe", "geneformer"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return small_tahoe() if request.param == "tahoe" else small_geneformer()


def autoencoder() -> sae.SAE:
    return sae.create(16, 64, 8, seed=1)


def design(mode: str) -> Design:
    variants = [
        Variant("base"),
        Variant("edit", 0, 1.0, EDITS),
        Variant("edit", 0, 2.0, STRONGER),
        Variant("noise", 0, 1.0, norm_of=1),
    ]
    if mode == "reconstruction":
        variants[1:] = [Variant("reconstruction"), Variant("edit", 0, 1.0, EDITS)]
    return Design(HOOK, mode, 1, "mean", 5, (Experiment(parse_edits("3:+1")),), tuple(variants))  # type: ignore[arg-type]


def test_cells_are_repeated_in_place(encoder: Encoder) -> None:
    tokens = encoder.packed(tokens_of(encoder))
    many, rows_VT = repeated(tokens, 3)
    assert sorted(rows_VT.flatten().tolist()) == list(range(3 * tokens.n_tokens))
    assert many.layout.lengths.tolist() == np.repeat(tokens.layout.lengths, 3).tolist()
    for version in range(3):
        assert torch.equal(many.ids_T[rows_VT[version]], tokens.ids_T)
        assert torch.equal(many.values_T[rows_VT[version]], tokens.values_T)
        cells = many.layout.cell_T[rows_VT[version]]
        assert torch.equal(cells, 3 * tokens.layout.cell_T + version)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["delta", "reconstruction"])
def test_each_version_is_what_it_is_alone(encoder: Encoder, mode: str) -> None:
    tokens, model = encoder.packed(tokens_of(encoder)), autoencoder()
    many, rows_VT = repeated(tokens, len(design(mode).variants))
    means_GD = torch.randn(len(encoder.tokeniser.gene_ids), 16, generator=torch.Generator().manual_seed(6))
    reading = Reading.of(encoder, model, means_GD)
    grid = EditGrid(reading, design(mode), rows_VT, tokens, np.arange(12))
    found = encoder(many, (HOOK, "final"), interventions={HOOK: grid}).hooks
    alone = {
        "delta": [{}, {HOOK: delta(reading, EDITS)}, {HOOK: delta(reading, STRONGER)}],
        "reconstruction": [
            {},
            {HOOK: reconstruct(reading)},
            {HOOK: reconstruct(reading, edits=EDITS)},
        ],
    }
    for version, interventions in enumerate(alone[mode]):
        expected = encoder(tokens, (HOOK, "final"), interventions=interventions).hooks
        for name in (HOOK, "final"):
            torch.testing.assert_close(found[name][rows_VT[version]], expected[name], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_noise_moves_every_token_as_far_as_the_edit(encoder: Encoder) -> None:
    tokens, model = encoder.packed(tokens_of(encoder)), autoencoder()
    x_TD = torch.randn(tokens.n_tokens, 16, generator=torch.Generator().manual_seed(2))
    many, rows_VT = repeated(tokens, 4)
    x = torch.empty(4 * tokens.n_tokens, 16)
    x[rows_VT] = x_TD
    grid = EditGrid(Reading.of(encoder, model), design("delta"), rows_VT, tokens, np.arange(12))
    moved_VTD = grid(x, many)[rows_VT] - x_TD
    torch.testing.assert_close(moved_VTD.norm(dim=2), grid.moved_VT, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grid.moved_VT[3], grid.moved_VT[1])
    assert grid.moved_VT[1].max() > 0
    assert not grid.moved_VT[:, ~encoder.is_gene(tokens.ids_T)].any()
    assert torch.nn.functional.cosine_similarity(moved_VTD[1], moved_VTD[3]).abs().mean() < 0.5


@torch.no_grad()
def test_noise_depends_on_seed_and_cell_alone() -> None:
    encoder, model = small_tahoe(), autoencoder()

    def noisy(cells: list[int]) -> torch.Tensor:
        tokens = encoder.packed(tokens_of(encoder).select(cells))
        many, rows_VT = repeated(tokens, 4)
        grid = EditGrid(Reading.of(encoder, model), design("delta"), rows_VT, tokens, np.array(cells))
        states = encoder(many, (HOOK,), interventions={HOOK: grid}).hooks[HOOK]
        return states[rows_VT[3, tokens.layout.cell_T == cells.index(5)]]

    torch.testing.assert_close(noisy([5]), noisy([7, 5, 1]), rtol=1e-5, atol=1e-5)
