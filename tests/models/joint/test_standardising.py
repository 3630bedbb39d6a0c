"""Standardised features: what the heads see, and the plain heads that come out of it."""

from pathlib import Path

import pytest
import torch

from engine.models import joint
from engine.models.errors import ModelError
from tests.models.joint.small_joint import small_joint


@pytest.mark.parametrize("head", ["sphere", "residual"])
def test_a_folded_head_gives_the_same_embeddings(tmp_path: Path, head: str) -> None:
    model = small_joint(tmp_path, head=head)
    joint.standardise(model)
    f_BD = 5 + 0.1 * torch.randn(40, model.config.cell_width, generator=torch.Generator().manual_seed(0))
    assert isinstance(model.cell_head, joint.StandardisedHead)
    model.cell_head.measure(f_BD)
    model.cell_head.train()
    model.project_cells(f_BD)  # moves the statistics of a BatchNorm
    model.eval()
    seen_BD = (f_BD - model.cell_head.mean_D) / model.cell_head.deviation_D
    assert seen_BD.mean(0).abs().max() < 1e-4
    assert (seen_BD.std(0) - 1).abs().max() < 1e-4
    expected_BU = model.project_cells(f_BD)
    joint.fold(model)
    assert not isinstance(model.cell_head, joint.StandardisedHead)
    assert torch.allclose(model.project_cells(f_BD), expected_BU, atol=1e-5)
    joint.save(model, tmp_path / "model")
    assert torch.allclose(joint.load(tmp_path / "model").project_cells(f_BD), expected_BU, atol=1e-5)


def test_a_constant_dimension_stays_small(tmp_path: Path) -> None:
    head = joint.StandardisedHead(torch.nn.Identity(), 3)
    f_BD = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    f_BD[:, 1] = 7.0
    head.measure(f_BD)
    assert head(f_BD)[:, 1].abs().max() < 1e-2
    with pytest.raises(ModelError, match="all finite"):
        head.measure(torch.full((4, 3), float("nan")))
