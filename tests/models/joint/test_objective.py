"""The joint model's objective: what a batch may hold, chunks, and that it learns pairs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.models import joint
from engine.models.errors import ModelError
from tests.models.joint.small_joint import TEXTS, small_joint
from tests.models.small_models import tokens_of

CELLS = [0, 1, 3, 4, 5, 6, 7, 8]
OF_CELL = [0, 1, 2, 3, 4, 0, 1, 2]  # text of each cell


def batch_of(model: joint.JointModel) -> dict[str, Tensor]:
    tokens = tokens_of(model.cell_tower).select(CELLS)
    texts = model.text_tower.tokenise([TEXTS[i] for i in OF_CELL])
    return {
        "ids_T": torch.as_tensor(tokens.ids_T),
        "values_T": torch.as_tensor(tokens.values_T),
        "offsets": torch.as_tensor(tokens.offsets),
        "text_ids_BS": texts.ids_BS,
        "text_mask_BS": texts.mask_BS,
        "captions_B": torch.tensor(OF_CELL),
    }


def module_of(
    folder: Path,
    mode: str = "UU",
    *,
    sigmoid: bool = False,
    head: str = "residual",
    lora: int = 0,
    **options: Any,
) -> joint.TrainingModule:
    model = small_joint(folder, sigmoid=sigmoid, head=head)
    joint.lock(model, mode, cell_lora=lora, text_lora=lora)
    joint.set_learning(model, mode, warming_up=False)
    options = {"kind": "siglip" if sigmoid else "infonce"} | options
    return joint.TrainingModule(model, joint.ObjectiveOptions(**options)).train()


def gradients(module: joint.TrainingModule, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    module.model.cell_tower.eval()  # dropout would draw for chunks in another order
    module.model.text_tower.eval()
    loss, _ = module(batch)
    loss.backward()
    return {name: part.grad for name, part in module.named_parameters() if part.grad is not None}


@pytest.mark.parametrize(("sigmoid", "lora"), [(False, 0), (True, 0), (False, 2)])
def test_chunks_change_nothing(tmp_path: Path, sigmoid: bool, lora: int) -> None:
    options: dict[str, Any] = {"sigmoid": sigmoid, "lora": lora, "head": "sphere"}
    whole, chunked = (module_of(tmp_path, chunk=chunk, **options) for chunk in (0, 3))
    expected, found = gradients(whole, batch_of(whole.model)), gradients(chunked, batch_of(chunked.model))
    assert found.keys() == expected.keys()
    assert len(found) > 40
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() < 1e-5 * largest


def test_features_of_frozen_towers_may_come_from_a_cache(tmp_path: Path) -> None:
    module = module_of(tmp_path, "LL")
    batch = batch_of(module.model)
    tokens = tokens_of(module.model.cell_tower).select(CELLS)
    texts = module.model.text_tower.tokenise([TEXTS[i] for i in OF_CELL])
    cached = {
        "cell_features_BD": module.model.cell_features(tokens),
        "text_features_BD": module.model.text_features(texts),
        "captions_B": batch["captions_B"],
    }
    torch.testing.assert_close(module(cached).loss, module(batch).loss)


def test_positives_and_weights_and_the_frozen_temperature(tmp_path: Path) -> None:
    module = module_of(tmp_path, "LL", learn_scale=False)
    batch = batch_of(module.model)
    assert "model.log_scale" not in gradients(module, batch)
    by_caption = module(batch).loss
    pair = joint.TrainingModule(module.model, joint.ObjectiveOptions(positives="pair")).train()
    # Equal texts make equal rows: then, and only then, targets spread over them are worth the same.
    torch.testing.assert_close(pair(batch).loss, by_caption)
    paraphrased = batch | {"captions_B": torch.tensor([0, 0, 2, 3, 4, 0, 0, 2])}
    assert not torch.isclose(module(paraphrased).loss, by_caption)
    torch.testing.assert_close(pair(paraphrased).loss, by_caption)
    torch.testing.assert_close(module(batch | {"cell_weights_B": torch.full((8,), 2.0)}).loss, by_caption)
    heavy = torch.tensor([5.0, 1, 1, 1, 1, 1, 1, 1])
    assert not torch.isclose(module(batch | {"text_weights_B": heavy}).loss, by_caption)


def test_the_scale_is_limited_unless_told_otherwise(tmp_path: Path) -> None:
    module = module_of(tmp_path, "LL", largest_scale=20.0)
    with torch.no_grad():
        module.model.log_scale.fill_(9.0)
    assert module(batch_of(module.model)).metrics["scale"].item() == pytest.approx(20.0)
    free = joint.TrainingModule(module.model, joint.ObjectiveOptions(largest_scale=None))
    assert free(batch_of(module.model)).metrics["scale"].item() > 8000


@pytest.mark.parametrize("sigmoid", [False, True])
def test_it_learns_which_text_belongs_to_which_cell(tmp_path: Path, sigmoid: bool) -> None:
    module = module_of(tmp_path, "LL", sigmoid=sigmoid)
    batch = batch_of(module.model)
    optimizer = torch.optim.Adam([part for part in module.parameters() if part.requires_grad], lr=0.01)
    first = module(batch).loss.item()
    for _ in range(60):
        optimizer.zero_grad()
        loss, metrics = module(batch)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.6 * first
    assert metrics["text_to_cell_at_1"] >= 0.75
    assert metrics["cell_to_text_at_1"] >= 0.75


def test_a_loss_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not fit"):
        module_of(tmp_path, kind="siglip")
    with pytest.raises(ModelError, match="need infonce or siglip"):
        joint.ObjectiveOptions(kind="clip")  # type: ignore[arg-type]


def test_distinct_captions_are_one_candidate_each(tmp_path: Path) -> None:
    module = module_of(tmp_path, positives="distinct", head="sphere").eval()
    batch = batch_of(module.model)
    cells_BU = module.model.project_cells(module.cell_features(batch))
    texts_BU = module.model.project_texts(module.text_features(batch))
    first = [0, 1, 2, 3, 4]  # pairs 5, 6 and 7 repeat captions 0, 1 and 2
    positive_TB = torch.tensor(first)[:, None] == torch.tensor(OF_CELL)[None, :]
    expected = [
        joint.info_nce(
            *(torch.nn.functional.normalize(part[:, :dim], dim=1) for part in (texts_BU[first], cells_BU)),
            module.scale,
            positive_TB,
        )
        for dim in module.model.config.dims
    ]
    assert torch.allclose(module(batch).loss, torch.stack(expected).mean(), atol=1e-6)
    caption = module_of(tmp_path, head="sphere").eval()
    assert not torch.allclose(module(batch).loss, caption(batch).loss, atol=1e-3)


def test_texts_of_a_batch_may_be_given_once(tmp_path: Path) -> None:
    module = module_of(tmp_path).eval()
    batch = batch_of(module.model)
    texts = module.model.text_tower.tokenise(TEXTS)
    once = {
        **batch,
        "text_ids_BS": texts.ids_BS,
        "text_mask_BS": texts.mask_BS,
        "text_of_pair_B": torch.tensor(OF_CELL),
    }
    assert torch.allclose(module(once).loss, module(batch).loss, atol=1e-5)
