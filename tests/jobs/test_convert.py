"""`convert` as a command: every kind, what is refused, and that a second run has nothing to do."""

import json
from pathlib import Path

import pytest
import torch

from engine import models
from engine.models import chat, joint, sae
from jobs import convert
from tests.models.chat.language_models import WIDTH, language_model_directory
from tests.models.chat.test_model import stage_one
from tests.models.joint.small_joint import TEXTS, lightning_checkpoint, text_directory
from tests.models.small_models import small_geneformer, small_tahoe, tokens_of


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Those of a conversion from CellWhisperer, without --output."""
    lightning_checkpoint(tmp_path / "model.ckpt", monkeypatch)
    models.save(small_geneformer(special_tokens=False), tmp_path / "cells")
    text_directory(tmp_path / "texts")
    towers = ["--cell-tower", str(tmp_path / "cells"), "--text-tower", str(tmp_path / "texts")]
    return ["--from", str(tmp_path / "model.ckpt"), "--kind", "cellwhisperer", *towers]


def test_cellwhisperer(
    tmp_path: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "joint")
    assert convert.main([*flags, "--output", output]) == 0
    model = joint.load(output)
    assert model.config.head == "residual"
    assert model.embed_texts(TEXTS).shape == (5, 24)
    assert not model.embed_cells(tokens_of(model.cell_tower)).isnan().all()
    record = json.loads((tmp_path / "joint" / "run.json").read_text())
    assert record["counts_out"] == {"models": 1}
    assert not list((tmp_path / "joint").glob("*.ckpt"))
    assert convert.main([*flags, "--output", output]) == 0
    assert "nothing to do" in capsys.readouterr().err
    lightning_checkpoint(tmp_path / "model.ckpt", monkeypatch, locking_mode="UU")
    assert convert.main([*flags, "--output", output]) == 2
    assert record["lineage"] in capsys.readouterr().err
    assert convert.main([*flags, "--output", output, "--overwrite"]) == 0
    assert joint.load(output).config.metadata["locking_mode"] == "UU"


def test_options_from_yaml(tmp_path: Path, flags: list[str]) -> None:
    names = {flag.removeprefix("--"): value for flag, value in zip(flags[::2], flags[1::2], strict=True)}
    (tmp_path / "convert.yaml").write_text(json.dumps(names | {"output": str(tmp_path / "joint")}))
    assert convert.main(["--config", str(tmp_path / "convert.yaml")]) == 0
    assert joint.load(tmp_path / "joint").config.width == 24


def test_their_chat_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    language_model = language_model_directory(tmp_path / "language")
    config = chat.ChatConfig(cell_width=8, model_width=WIDTH, n_tokens=2, hidden_width=2 * WIDTH)
    theirs = stage_one(tmp_path / "theirs", chat.Projector(config), "mlp2x_2t_gelu")
    flags = ["--from", str(theirs), "--kind", "cellwhisperer-chat", "--output", str(tmp_path / "chat")]
    assert convert.main(flags) == 2
    assert "tokeniser" in capsys.readouterr().err
    assert convert.main([*flags, "--language-model", language_model]) == 0
    model = chat.load(tmp_path / "chat")
    assert (model.config.cell_width, model.config.n_tokens, model.config.top_genes) == (8, 2, True)
    assert not list((tmp_path / "chat").glob("*.bin"))
    assert convert.main([*flags, "--kind", "tahoe", "--language-model", language_model]) == 2
    assert "of no use here" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["geneformer", "tahoe"])
def test_encoders_lose_their_pickles(tmp_path: Path, kind: str) -> None:
    encoder = small_geneformer() if kind == "geneformer" else small_tahoe()
    theirs = tmp_path / "theirs"
    models.save(encoder, theirs)
    (theirs / "model.safetensors").unlink()
    if kind == "geneformer":
        weights = theirs / "pytorch_model.bin"
        torch.save(models.geneformer.checkpoint.KEYS.export(encoder), weights)
    else:
        weights = theirs / "best-model.pt"
        torch.save({"state": {"model": models.tahoe.checkpoint.KEYS.export(encoder)}}, weights)
    flags = ["--from", str(weights), "--kind", kind, "--output", str(tmp_path / "ours")]
    assert convert.main(flags) == 0
    assert (tmp_path / "ours" / "model.safetensors").is_file()
    found = models.load(tmp_path / "ours")
    assert torch.equal(
        found.embed(tokens_of(found)).nan_to_num(), encoder.embed(tokens_of(found)).nan_to_num()
    )


def test_an_autoencoder_of_sae_genomics_picks_features_as_in_training(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {
        "W_enc": torch.randn(6, 30, generator=generator),
        "b_enc": torch.randn(30, generator=generator) * 0.1,
        "W_dec": torch.randn(30, 6, generator=generator) * torch.linspace(0.2, 3, 30)[:, None],
        "b_dec": torch.randn(6, generator=generator) * 0.1,
    }
    settings = {"d_in": 6, "d_sae": 30, "activation": "topk", "k": 3}
    torch.save({"sae_state_dict": weights, **settings}, tmp_path / "sae.pt")
    flags = ["--from", str(tmp_path / "sae.pt"), "--kind", "sae-genomics", "--output", str(tmp_path / "sae")]
    assert convert.main(flags) == 0
    x_BD = torch.randn(50, 6, generator=generator)
    scores_BF = torch.relu((x_BD - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"])
    weighted_BF = scores_BF * weights["W_dec"].norm(dim=1)
    expected = torch.zeros_like(weighted_BF).scatter(1, weighted_BF.topk(3).indices, 1.0) * (weighted_BF > 0)
    assert torch.equal((sae.load(tmp_path / "sae").encode(x_BD) > 0).float(), expected)


def test_bad_input_gives_2_and_no_output(
    tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "out")]
    cases = {
        "--text-tower is missing": flags[:-2],
        "no such file": [*flags[:1], str(tmp_path / "none.ckpt"), *flags[2:]],
        "of no use here": ["--from", flags[1], "--kind", "tahoe", *flags[4:]],
        "holds a GeneformerEncoder": ["--from", str(tmp_path / "cells"), "--kind", "tahoe"],
        "'state_dict' is missing": [*flags[:1], str(tmp_path / "empty.ckpt"), *flags[2:]],
    }
    torch.save({"epoch": 1}, tmp_path / "empty.ckpt")
    for told, given in cases.items():
        assert convert.main([*given, *output]) == 2
        assert told in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
