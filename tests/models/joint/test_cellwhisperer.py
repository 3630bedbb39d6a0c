"""Checkpoints of CellWhisperer's layout: read without its code, converted, refused where they do not fit."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from engine import models
from engine.models.errors import ModelError, UnsafePickle
from engine.models.joint.cellwhisperer import convert, head_weights, read_settings
from engine.models.joint.heads import ResidualHead
from tests.models.joint.small_joint import TEXTS, bert, lightning_checkpoint, text_directory
from tests.models.small_models import GENES, perturbed, small_geneformer, small_tahoe, tokens_of
from tests.models.test_foreign import Call


class Paths:
    """The checkpoint to write, and the towers' directories beside it."""

    def __init__(self, folder: Path) -> None:
        self.checkpoint, self.cells = folder / "model.ckpt", folder / "geneformer"
        models.save(small_geneformer(special_tokens=False), self.cells)
        self.texts = text_directory(folder / "biobert")

    def convert(self) -> Any:
        return convert(self.checkpoint, self.cells, self.texts)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path)


def test_the_converted_model_computes_what_the_checkpoint_says(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts: the checkpoint's BERT, pooler and text_block. Cells: the directory's Geneformer, img_block."""
    (paths.texts / "model.safetensors").unlink()  # only its tokeniser is needed
    state = lightning_checkpoint(paths.checkpoint, monkeypatch)
    model = paths.convert()
    heads = head_weights({n: t for n, t in state.items() if "discriminator" in n})
    reference = {}
    for name, width in (("cell_head", 16), ("text_head", 12)):
        reference[name] = ResidualHead(width, 24).eval()
        own = {n.removeprefix(name + "."): t for n, t in heads.items() if n.startswith(name)}
        reference[name].load_state_dict(own)
    with torch.no_grad():
        for text, found in zip(TEXTS, model.embed_texts(TEXTS), strict=True):
            features = bert()(**model.text_tower.tokeniser(text, return_tensors="pt")).pooler_output
            torch.testing.assert_close(found, F.normalize(reference["text_head"](features)[0], dim=0))
        cells = small_geneformer(special_tokens=False)
        tokens = tokens_of(cells)
        features = cells.embed(tokens, layer=-2, pool="mean")
        expected = F.normalize(reference["cell_head"](features), dim=1)
        torch.testing.assert_close(model.embed_cells(tokens), expected, equal_nan=True)
    assert model.log_scale.item() == 2.5
    assert model.config.metadata["locking_mode"] == "LU"


def test_an_unlocked_cell_tower_comes_from_the_checkpoint(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    lightning_checkpoint(paths.checkpoint, monkeypatch, locking_mode="UU")
    found, directory = paths.convert().cell_tower.state_dict(), models.load(paths.cells).state_dict()
    assert found.keys() == directory.keys()
    for name, part in found.items():
        torch.testing.assert_close(part, directory[name] + 0.01)


def test_a_frozen_text_tower_comes_from_the_directory(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    lightning_checkpoint(paths.checkpoint, monkeypatch, locking_mode="LL")
    text_tower = paths.convert().text_tower
    assert text_tower.pool == "pooler"
    for name, part in bert().state_dict().items():
        assert torch.equal(text_tower.language_model.state_dict()[name], part)


def test_settings_are_read_without_their_classes(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    lightning_checkpoint(paths.checkpoint, monkeypatch)
    settings = read_settings(paths.checkpoint)
    assert settings["projection_dim"] == 24
    assert settings["transcriptome_config"]["model_type"] == "geneformer"
    assert settings["text_config"]["num_attention_heads"] == 3  # no weight shows it


def test_a_checkpoint_that_contains_itself_is_read(paths: Paths) -> None:
    loop: dict[str, Any] = {"locking_mode": "LU"}
    loop["again"] = {"loop": loop}
    torch.save({"state_dict": {}, "hyper_parameters": {"config": loop}}, paths.checkpoint)
    assert read_settings(paths.checkpoint) == {"locking_mode": "LU", "again": {"loop": None}}


@pytest.mark.parametrize("place", ["hyper_parameters", "callbacks", "state_dict"])
def test_a_malicious_checkpoint_is_refused_and_nothing_runs(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    attack = Call(os.system, f"touch {tmp_path / 'executed'}")
    lightning_checkpoint(paths.checkpoint, monkeypatch, **{place: {"x": attack}})
    with pytest.raises(UnsafePickle, match="nothing of it was run"):
        paths.convert()
    assert not (tmp_path / "executed").exists()


def test_what_cannot_be_converted_is_named(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    state = lightning_checkpoint(paths.checkpoint, monkeypatch)
    image = {"model.image_model.weight": torch.zeros(2)}
    lightning_checkpoint(paths.checkpoint, monkeypatch, state_dict=state | image)
    with pytest.raises(ModelError, match=r"image_model"):
        paths.convert()
    without = {name: part for name, part in state.items() if "img_block" not in name}
    lightning_checkpoint(paths.checkpoint, monkeypatch, state_dict=without)
    with pytest.raises(ModelError, match="no projection heads"):
        paths.convert()
    scgpt = {"config": {"locking_mode": "LU", "transcriptome_config": {"model_type": "scgpt"}}}
    lightning_checkpoint(paths.checkpoint, monkeypatch, hyper_parameters=scgpt)
    with pytest.raises(ModelError, match="'scgpt'; only Geneformer"):
        paths.convert()


def test_towers_that_do_not_fit_are_named(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lightning_checkpoint(paths.checkpoint, monkeypatch)
    models.save(small_tahoe(), tmp_path / "tahoe")
    with pytest.raises(ModelError, match="TahoeEncoder; CellWhisperer's cell tower is a Geneformer"):
        convert(paths.checkpoint, tmp_path / "tahoe", paths.texts)
    medians = dict.fromkeys(GENES, 1.0)
    wide = models.geneformer.create(GENES, medians, d_model=32, n_heads=2, n_layers=2, special_tokens=False)
    models.save(perturbed(wide), tmp_path / "wide")
    with pytest.raises(ModelError, match=r"cell_head\.expand\.weight \(24, 16\) instead of \(24, 32\)"):
        convert(paths.checkpoint, tmp_path / "wide", paths.texts)
    (paths.texts / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(str, range(99))])
    )
    with pytest.raises(ModelError, match="tokeniser has 10"):
        paths.convert()
    with pytest.raises(ModelError, match="no such file"):
        convert(tmp_path / "none.ckpt", paths.cells, paths.texts)
