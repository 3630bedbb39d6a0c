"""Which towers learn, and that only they do."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.models import joint
from engine.models.errors import ModelError
from engine.models.joint.lora import add_lora, has_lora, merge_lora
from tests.models.joint.small_joint import TEXTS, small_joint
from tests.models.small_models import small_tahoe, tokens_of


def learning(model: joint.JointModel, tower: str) -> set[str]:
    module = model.get_submodule(f"{tower}_tower")
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def step(model: joint.JointModel) -> dict[str, Tensor]:
    """One large optimiser step in training mode; returns the weights from before it.

    The optimiser has all that will ever learn, as a training loop's has.
    """
    model.train()
    before = {name: part.detach().clone() for name, part in model.named_parameters()}
    trained = [part for part in model.parameters() if part.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.1)
    cells = model.project_cells(model.cell_features(tokens_of(model.cell_tower).select([0, 1, 3, 4, 5])))
    texts = model.project_texts(model.text_features(model.text_tower.tokenise(TEXTS)))
    joint.info_nce(texts, cells, model.scale, torch.eye(5) > 0).backward()
    resting = tuple(f"{tower}_tower." for tower in model.locked)
    for name, part in model.named_parameters():
        assert (part.grad is not None) == (part.requires_grad and not name.startswith(resting)), name
    optimizer.step()
    return before


def moved(model: joint.JointModel, before: dict[str, Tensor]) -> set[str]:
    return {
        name.split(".")[0] for name, part in model.named_parameters() if not torch.equal(part, before[name])
    }


def test_lu_trains_heads_first_and_then_the_text_tower(tmp_path: Path) -> None:
    model = small_joint(tmp_path)
    joint.lock(model, "LU")
    heads = {"cell_head", "text_head", "log_scale"}
    assert moved(model, step(model)) == heads
    assert not model.text_tower.training
    joint.set_learning(model, "LU", warming_up=False)
    assert moved(model, step(model)) == heads | {"text_tower"}
    assert not model.cell_tower.training
    assert model.text_tower.training


def test_a_locked_tower_has_no_dropout_while_the_rest_trains(tmp_path: Path) -> None:
    model = small_joint(tmp_path)
    joint.lock(model, "LL")
    tokens, before = tokens_of(model.cell_tower), model.cell_features(tokens_of(model.cell_tower))
    model.train()
    assert torch.equal(model.cell_features(tokens).nan_to_num(), before.nan_to_num())
    assert model.cell_head.training


def test_parts_that_features_do_not_depend_on_stay(tmp_path: Path) -> None:
    """Geneformer's feature is its second-to-last layer: the last block and the gene head are not reached."""
    model = small_joint(tmp_path)
    joint.lock(model, "UU")
    joint.set_learning(model, "UU", warming_up=False)
    names = learning(model, "cell")
    assert any(name.startswith("blocks.1.") for name in names)
    assert not any(name.startswith(("blocks.2.", "head.")) for name in names)
    step(model)  # asserts that all that learns has a gradient


def test_u_draws_the_tower_anew_and_trains_it_from_the_first_step(tmp_path: Path) -> None:
    model = small_joint(tmp_path)
    text_before, cell_before = model.embed_texts(TEXTS), model.embed_cells(tokens_of(model.cell_tower))
    joint.lock(model, "Lu", seed=1)
    assert not torch.allclose(model.embed_texts(TEXTS), text_before)
    torch.testing.assert_close(model.embed_cells(tokens_of(model.cell_tower)), cell_before, equal_nan=True)
    assert learning(model, "text")
    again = small_joint(tmp_path)
    joint.lock(again, "uu", seed=1)
    assert torch.equal(again.embed_texts(TEXTS), model.embed_texts(TEXTS))
    assert learning(again, "cell")
    again.eval()
    assert not torch.allclose(again.embed_cells(tokens_of(again.cell_tower)), cell_before, equal_nan=True)


@pytest.mark.parametrize("tower", ["cell", "text"])
def test_lora_begins_as_the_tower_and_alone_learns(tmp_path: Path, tower: str) -> None:
    model = small_joint(tmp_path)
    tokens = tokens_of(model.cell_tower)
    before = model.embed_cells(tokens), model.embed_texts(TEXTS)
    mode, rank = ("UL", {"cell_lora": 2}) if tower == "cell" else ("LU", {"text_lora": 2})
    joint.lock(model, mode, **rank)  # type: ignore[arg-type]
    torch.testing.assert_close(model.embed_cells(tokens), before[0], equal_nan=True)
    torch.testing.assert_close(model.embed_texts(TEXTS), before[1])
    assert f"{tower}_tower" not in moved(model, step(model))  # still warming up
    joint.set_learning(model, mode, warming_up=False)
    names = learning(model, tower)
    assert names
    assert all(name.endswith(("a_RI", "b_OR")) for name in names)
    assert f"{tower}_tower" in moved(model, step(model))
    assert not learning(model, "text" if tower == "cell" else "cell")


def test_a_merged_tower_computes_the_same_without_additions() -> None:
    """Tahoe's attention reads slices of its weight, past the layer's own forward pass."""
    tower = small_tahoe()
    plain, tokens = tower.embed(tokens_of(tower)), tokens_of(tower)
    add_lora(tower, rank=3)
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if name.endswith("b_OR"):
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    adapted = tower.embed(tokens)
    assert not torch.allclose(adapted, plain, equal_nan=True)
    names = small_tahoe().state_dict().keys()
    merge_lora(tower)
    assert not has_lora(tower)
    assert tower.state_dict().keys() == names
    torch.testing.assert_close(tower.embed(tokens), adapted, equal_nan=True)


@pytest.mark.parametrize("mode", ["", "L", "LX", "LUL"])
def test_unknown_modes_are_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(ModelError, match="expected two of L, U and u"):
        joint.lock(small_joint(tmp_path), mode)


def test_lora_needs_a_tower_that_learns(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="LoRA needs a cell tower marked U"):
        joint.lock(small_joint(tmp_path), "LU", cell_lora=4)
    with pytest.raises(ModelError, match="at least 1"):
        add_lora(small_tahoe(), rank=0)
