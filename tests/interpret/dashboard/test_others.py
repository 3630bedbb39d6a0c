"""A comparison seen from either of its autoencoders, and who else writes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.interpret.dashboard.inputs import COMPARISON, SiteInputs
from engine.interpret.dashboard.neighbours import NEIGHBOURS, neighbours_of
from engine.interpret.dashboard.others import Others
from engine.models import sae
from storage.commits import open_snapshot
from storage.errors import InputError
from storage.features import FeatureTables
from storage.locations import Location
from tests.interpret.dashboard.example import SHARED, Compared, write_compared
from tests.interpret.enrichment.example import FEATURES, write_features


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    return write_compared(tmp_path_factory.mktemp("compared"))


@pytest.mark.parametrize(("ours", "theirs"), [("features", "other-features"), ("other-features", "features")])
def test_either_side_sees_the_same_pairs(compared: Compared, ours: str, theirs: str) -> None:
    snapshot = open_snapshot(Location.of(compared.path("comparison")), COMPARISON)
    tables = [FeatureTables.open(compared.path(name)) for name in (ours, theirs)]
    others = Others.of(snapshot, tables[0], tables[1:])
    (number,) = others.numbers
    columns = others.columns(number)
    assert columns["best"][:SHARED] == list(range(SHARED))[::-1]
    assert min(columns["similarity"][:SHARED]) > 0.999
    assert set(range(SHARED)) <= set(columns["mutual"])
    assert columns["back"][:SHARED] == list(range(SHARED))[::-1]
    assert columns["genes"][3].split()[0] == tables[1].top_genes.query("feature == 3")["gene_name"].iloc[0]
    summary = others.summary()
    assert [one["name"] for one in summary["others"]] == [{"features": "theirs"}.get(ours, "ours")]
    assert summary["others"][0]["share"] == [0.5, 0.5]
    found = others.of_features([0, FEATURES - 1])
    assert found[0]["share"] == 1
    assert found[FEATURES - 1]["share"] == 0
    assert found[0]["partners"][0][2:5] == [SHARED - 1, 1.0, True]


def test_strangers_are_refused(compared: Compared, tmp_path: Path) -> None:
    stranger = write_features(tmp_path / "stranger", sae="of nobody")
    with pytest.raises(InputError, match="compares other autoencoders"):
        SiteInputs.open(str(stranger), comparison=compared.path("comparison"))
    with pytest.raises(InputError, match="need the comparison"):
        SiteInputs.open(compared.path("features"), others=[str(stranger)])
    with pytest.raises(InputError, match="another autoencoder"):
        SiteInputs.open(compared.path("features"), sae=compared.path("theirs"))


def test_nearest_directions_leave_oneself_out(tmp_path: Path) -> None:
    model = sae.create(16, FEATURES, 4, seed=0, metadata={})
    weights = {name: part.clone() for name, part in model.state_dict().items()}
    weights["W_dec"][5] = weights["W_dec"][9]
    model.load_state_dict(weights)
    sae.save(model, tmp_path / "sae")
    found = neighbours_of(str(tmp_path / "sae"))
    assert found.index_FC.shape == (FEATURES, NEIGHBOURS)
    assert found.index_FC[5, 0] == 9
    assert found.index_FC[9, 0] == 5
    assert (found.index_FC != np.arange(FEATURES)[:, None]).all()
    unit_FD = torch.nn.functional.normalize(weights["W_dec"], dim=1).numpy()
    assert np.allclose(found.similarity_FC[0], unit_FD[found.index_FC[0]] @ unit_FD[0], atol=1e-6)
