"""Cells in the space of a joint model, streamed: the same vectors as the model itself makes."""

from pathlib import Path

import anndata
import numpy as np
import pytest

from engine import models
from engine.models import joint
from engine.streaming.inputs import Inputs
from engine.streaming.joint_embeddings import joint_product
from engine.streaming.recipe import Recipe
from jobs import embed
from storage.errors import InputError
from tests.models.joint.small_joint import text_directory
from tests.models.small_models import perturbed
from tests.streaming.in_process import encode_here
from tests.streaming.test_products import tokens_of


@pytest.fixture(scope="module", params=["geneformer_model", "tahoe_model"])
def joint_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joint")
    text_tower = joint.load_text_tower(text_directory(folder / "bert"))
    cell_tower = models.load(request.getfixturevalue(request.param))
    head = {"geneformer_model": "residual", "tahoe_model": "sphere"}[request.param]
    joint.save(
        perturbed(joint.create(cell_tower, text_tower, width=24, dims=(8, 24), head=head)), folder / "m"
    )
    return folder / "m"


def test_the_stream_makes_what_the_model_makes(joint_model, small_store, small_counts, tmp_path):
    inputs = Inputs.open(str(small_store), str(joint_model), 60)
    snapshot = encode_here(inputs, joint_product(inputs.model), tmp_path / "out", Recipe(256))
    written = anndata.read_zarr(tmp_path / "out")
    expected = joint.load(joint_model).embed_cells(tokens_of(inputs, 256)).numpy()
    np.testing.assert_allclose(written.X, expected, atol=2e-5)
    # Geneformer has no token for the emptied cell 17, Tahoe-x1 its <cls>.
    empty = written.obs["n_tokens"].to_numpy() == 0
    np.testing.assert_array_equal(np.isnan(written.X), np.repeat(empty[:, None], 24, axis=1))
    np.testing.assert_allclose(np.linalg.norm(written.X[~empty], axis=1), 1, atol=1e-5)
    assert list(written.obs["cell_type"]) == list(small_counts.obs["cell_type"][:60])
    assert snapshot.lineage["model"] == inputs.model.fingerprint
    assert snapshot.lineage["embeddings"] == {"space": "joint", "width": 24}


def test_another_text_tower_is_another_model(joint_model, small_store, tmp_path):
    changed = joint.load(joint_model)
    perturbed(changed.text_tower)
    joint.save(changed, tmp_path / "changed")
    ours, other = (Inputs.open(str(small_store), str(path)) for path in (joint_model, tmp_path / "changed"))
    assert ours.model.fingerprint != other.model.fingerprint


def test_the_sides_are_the_model(joint_model):
    whole, texts = joint.load(joint_model), joint.load_text_side(joint_model)
    asked = ["T cells", "a sample of blood", ""]
    np.testing.assert_allclose(texts.embed_texts(asked).numpy(), whole.embed_texts(asked).numpy(), atol=1e-6)
    assert texts.embed_texts([]).shape == (0, 24)
    assert texts.temperature == pytest.approx(1 / float(whole.scale.detach()), rel=1e-6)


def test_a_plain_encoder_is_no_joint_model(tahoe_model, small_store):
    with pytest.raises(InputError, match="not a joint model"):
        joint_product(Inputs.open(str(small_store), str(tahoe_model)).model)


def test_a_joint_model_says_itself_what_it_pools(joint_model, small_store, tmp_path):
    wanted = embed.Options(
        cells=str(small_store), model=str(joint_model), output=str(tmp_path / "out"), pool="mean"
    )
    with pytest.raises(InputError, match="joint model, which says itself"):
        embed.run(wanted)
    assert not (tmp_path / "out").exists()
