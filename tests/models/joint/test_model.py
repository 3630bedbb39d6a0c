"""The joint model: embeddings, Matryoshka widths, and that a saved model is the same."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from engine.models import joint
from engine.models.errors import ModelError
from engine.models.joint.lora import add_lora
from tests.models.joint.small_joint import TEXTS, small_joint, text_directory
from tests.models.small_models import perturbed, small_geneformer, small_tahoe, tokens_of


@pytest.fixture
def model(tmp_path: Path) -> joint.JointModel:
    return perturbed(small_joint(tmp_path))  # type: ignore[no-any-return]


def test_embeddings_are_unit_vectors_of_the_towers_own_features(model: joint.JointModel) -> None:
    tokens = tokens_of(model.cell_tower)
    found = model.embed_cells(tokens)
    expected = F.normalize(model.cell_head(model.cell_tower.embed(tokens)), dim=1)
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert found.shape == (12, 8)
    assert not found[[i for i in range(12) if i != 2]].isnan().any()


def test_texts_keep_their_order_and_do_not_depend_on_their_neighbours(model: joint.JointModel) -> None:
    together = model.embed_texts(TEXTS)
    torch.testing.assert_close(together, torch.cat([model.embed_texts([text]) for text in TEXTS]))
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(TEXTS)))
    many = model.embed_texts(TEXTS * 20)
    torch.testing.assert_close(many, together.repeat(20, 1))
    assert model.embed_texts([]).shape == (0, 8)


def test_a_narrow_embedding_is_the_wide_ones_beginning(model: joint.JointModel) -> None:
    whole = model.embed_texts(TEXTS)
    torch.testing.assert_close(model.embed_texts(TEXTS, dim=4), F.normalize(whole[:, :4], dim=1))
    with pytest.raises(ModelError, match="trained for 4, 8"):
        model.embed_texts(TEXTS, dim=5)


def test_gradients_reach_both_towers_and_the_features_are_the_same(model: joint.JointModel) -> None:
    tokens = tokens_of(model.cell_tower).select([0, 1, 3, 4, 5])
    cells = model.project_cells(model.cell_features(tokens))
    texts = model.project_texts(model.text_features(model.text_tower.tokenise(TEXTS)))
    torch.testing.assert_close(cells.detach(), model.embed_cells(tokens))
    torch.testing.assert_close(texts.detach(), model.embed_texts(TEXTS))
    joint.info_nce(texts, cells, model.scale, torch.eye(5) > 0).backward()
    for tower in (model.cell_tower, model.text_tower):
        assert sum(parameter.grad is not None for parameter in tower.parameters()) > 10
    assert model.log_scale.grad is not None


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("head", ["residual", "sphere"])
def test_a_saved_model_is_the_same_model(tmp_path: Path, head: str, sigmoid: bool) -> None:
    cells = small_tahoe()
    model = perturbed(
        joint.create(cells, text_directory(tmp_path / "bert"), width=8, head=head, sigmoid=sigmoid)
    )
    joint.save(model, tmp_path / "saved")
    again = joint.load(tmp_path / "saved")
    assert again.config == model.config
    tokens = tokens_of(cells)
    assert torch.equal(again.embed_texts(TEXTS), model.embed_texts(TEXTS))
    torch.testing.assert_close(again.embed_cells(tokens), model.embed_cells(tokens), equal_nan=True)
    assert torch.equal(again.scale, model.scale)
    assert (again.bias is None) == (not sigmoid)


def test_what_lora_learnt_is_in_the_saved_weights(tmp_path: Path, model: joint.JointModel) -> None:
    add_lora(model.cell_tower, rank=2)
    add_lora(model.text_tower, rank=2)
    perturbed(model)
    joint.save(model, tmp_path / "saved")
    again = joint.load(tmp_path / "saved")
    tokens = tokens_of(model.cell_tower)
    torch.testing.assert_close(again.embed_cells(tokens), model.embed_cells(tokens), equal_nan=True)
    torch.testing.assert_close(again.embed_texts(TEXTS), model.embed_texts(TEXTS))


def test_bfloat16_towers_are_close(tmp_path: Path, model: joint.JointModel) -> None:
    joint.save(model, tmp_path / "saved")
    again = joint.load(tmp_path / "saved", precision="bf16")
    cosine = (again.embed_texts(TEXTS) * model.embed_texts(TEXTS)).sum(1)
    assert cosine.min() > 0.995
    assert again.embed_texts(TEXTS).dtype == torch.float32


def test_the_same_seed_gives_the_same_heads_and_leaves_random_numbers_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    towers = small_geneformer(), joint.load_text_tower(text_directory(tmp_path / "bert"))
    torch.manual_seed(5)
    one, two = (joint.create(*towers, width=8, seed=3) for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(one.cell_head.project.weight, two.cell_head.project.weight)  # type: ignore[union-attr]


def test_damaged_directories_are_named(tmp_path: Path, model: joint.JointModel) -> None:
    joint.save(model, tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        joint.load(tmp_path / "saved")
    with pytest.raises(ModelError, match="not the directory of a joint model"):
        joint.load(tmp_path / "bert")


@pytest.mark.parametrize("dims", [(8, 4), (4,), (0, 8), (4, 4, 8)])
def test_dims_must_ascend_to_the_width(dims: tuple[int, ...]) -> None:
    with pytest.raises(ModelError):
        joint.JointConfig(16, 12, 8, dims=dims)
