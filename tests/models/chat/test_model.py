"""Soft tokens, spliced inputs, streamed answers, directories; the original's projector and files."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engine.models import chat
from engine.models.chat import llava
from engine.models.chat.language_model import empty_language_model
from engine.models.errors import ModelError, UnsafePickle
from engine.models.joint.lora import add_lora
from tests.models.chat.language_models import WIDTH, language_model_directory

CELLS = 8


def model_of(directory: str, frozen: bool = True, **others: object) -> chat.ChatModel:
    config = chat.ChatConfig(
        cell_width=CELLS, model_width=WIDTH, **{"n_tokens": 3, "hidden_width": 16, **others}
    )
    projector = chat.fresh_projector(config, 0.02, seed=0)
    language_model, tokeniser = chat.load_language_model(directory), chat.load_tokeniser(directory)
    return chat.ChatModel(config, projector, language_model, tokeniser, frozen=frozen).eval()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    return language_model_directory(tmp_path_factory.mktemp("language") / "model")


def test_soft_tokens_are_the_originals_arithmetic() -> None:
    """Two linear layers, a GELU (exact) between, one vector for all tokens, in rows: mlp2x_8t_gelu."""
    config = chat.ChatConfig(cell_width=CELLS, model_width=WIDTH, n_tokens=8, hidden_width=8 * WIDTH)
    projector = chat.Projector(config)
    theirs = nn.Sequential(nn.Linear(CELLS, 8 * WIDTH), nn.GELU(), nn.Linear(8 * WIDTH, 8 * WIDTH))
    projector.load_state_dict(theirs.state_dict())
    cells_NU = torch.randn(5, CELLS)
    expected = theirs(cells_NU).reshape(-1, 8, WIDTH)
    assert torch.equal(projector(cells_NU), expected)


def test_a_fresh_projector_is_as_large_as_words(directory: str) -> None:
    model = model_of(directory)
    soft = model.soft_tokens(nn.functional.normalize(torch.randn(64, CELLS), dim=1))
    assert 0.01 < float(soft.square().mean().sqrt()) < 0.04


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_cells_take_their_places(tmp_path: Path, family: str) -> None:
    model = model_of(language_model_directory(tmp_path / "model", family=family))
    turns = [chat.Turn("user", "What are these?", n_cells=2)]
    encoded = model.tokeniser.encode(turns)
    cells_NU = torch.randn(2, CELLS)
    ids_BS, _, mask_BS = chat.padded([encoded])
    x_BSD = model.embed(ids_BS, cells_NU)
    soft = (encoded.ids_S == -1).nonzero()[:, 0]
    assert torch.equal(x_BSD[0, soft], model.projector(cells_NU).flatten(0, 1))
    words = (encoded.ids_S != -1).nonzero()[:, 0]
    assert torch.equal(x_BSD[0, words], model.language_model.get_input_embeddings()(encoded.ids_S[words]))
    logits = model(ids_BS, mask_BS, cells_NU)
    assert not torch.allclose(logits[0, -1], model(ids_BS, mask_BS, cells_NU.flip(0))[0, -1])
    with pytest.raises(ModelError, match="1 selections of cells for 2 places"):
        model.embed(ids_BS, cells_NU[:1])


def test_padding_changes_nothing(directory: str) -> None:
    model = model_of(directory)
    short = model.tokeniser.encode([chat.Turn("user", "What?", 1), chat.Turn("assistant", "T cells.")])
    long = model.tokeniser.encode(
        [chat.Turn("user", "Describe these cells in detail.", 1), chat.Turn("assistant", "B cells.")]
    )
    cells_NU = torch.randn(2, CELLS)
    module = chat.TrainingModule(model, answer_tokens=4.0)
    together = dict(zip(("ids_BS", "labels_BS", "mask_BS"), chat.padded([short, long]), strict=True))
    alone = []
    for number, encoded in enumerate((short, long)):
        batch = dict(zip(("ids_BS", "labels_BS", "mask_BS"), chat.padded([encoded]), strict=True))
        alone.append(module({**batch, "cells_NU": cells_NU[number : number + 1]}).loss)
    assert torch.allclose(module({**together, "cells_NU": cells_NU}).loss, sum(alone) / 2, atol=1e-5)


def test_an_answer_comes_in_pieces_and_ends_when_closed(directory: str) -> None:
    model = model_of(directory)
    ids_S = model.tokeniser.encode([chat.Turn("user", "What are these?", 1)]).ids_S
    cells_NU = torch.randn(1, CELLS)
    greedy = chat.Sampling(max_new_tokens=12)
    pieces = list(chat.generate(model, ids_S, cells_NU, greedy))
    with torch.no_grad():
        whole = model.language_model.generate(
            inputs_embeds=model.embed(ids_S[None], cells_NU),
            attention_mask=torch.ones(1, len(ids_S)),
            max_new_tokens=12,
            do_sample=False,
        )
    expected = model.tokeniser.tokeniser.decode(whole[0], skip_special_tokens=True)
    assert "".join(pieces) == expected
    calls: list[int] = []
    hook = model.language_model.register_forward_hook(lambda *_: calls.append(1))
    answer = chat.generate(model, ids_S, cells_NU, chat.Sampling(max_new_tokens=400))
    list(itertools.islice(answer, 2))
    n = len(calls)
    answer.close()  # type: ignore[attr-defined]
    hook.remove()
    assert len(calls) == n < 20
    drawn = [
        "".join(chat.generate(model, ids_S, cells_NU, chat.Sampling(1.0, 0.9, 1.2, 12, seed)))
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(ModelError, match="top_p"):
        chat.Sampling(top_p=0.0)


@pytest.mark.parametrize("lora", [0, 2])
def test_a_directory_gives_the_same_model_back(directory: str, tmp_path: Path, lora: int) -> None:
    model = model_of(directory, frozen=False)
    if lora:
        add_lora(model.language_model, lora)
        for name, part in model.language_model.named_parameters():
            if name.endswith("b_OR"):
                nn.init.normal_(part)
    chat.save(model, tmp_path / "chat")
    again = chat.load(tmp_path / "chat")
    assert again.config == model.config
    encoded = model.tokeniser.encode([chat.Turn("user", "What are these?", 1)])
    ids_BS, _, mask_BS = chat.padded([encoded])
    cells_NU = torch.randn(1, CELLS)
    assert torch.allclose(again(ids_BS, mask_BS, cells_NU), model(ids_BS, mask_BS, cells_NU), atol=1e-5)
    assert torch.equal(chat.load_projector(tmp_path / "chat")(cells_NU), model.projector(cells_NU))
    chat.save(model_of(directory), tmp_path / "copied", unchanged=directory)
    ours, theirs = (
        folder / "model.safetensors" for folder in (tmp_path / "copied/language_model", Path(directory))
    )
    assert ours.read_bytes() == theirs.read_bytes()


def stage_one(folder: Path, projector: chat.Projector, kind: str = "mlp2x_3t_gelu") -> Path:
    """What the first stage of CellWhisperer's training leaves."""
    folder.mkdir()
    weights = {f"model.mm_projector.{name}": part for name, part in projector.state_dict().items()}
    torch.save(weights, folder / "mm_projector.bin")
    settings = {"model_type": "llava_mistral", "mm_projector_type": kind, "mm_hidden_size": CELLS}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_their_projector_is_read(directory: str, tmp_path: Path) -> None:
    model = model_of(directory, hidden_width=3 * WIDTH)
    found = llava.convert(stage_one(tmp_path / "one", model.projector), directory)
    cells_NU = torch.randn(2, CELLS)
    assert torch.equal(found.projector(cells_NU), model.projector(cells_NU))
    assert (found.config.n_tokens, found.config.hidden_width, found.config.unit) == (3, 3 * WIDTH, False)
    assert found.config.top_genes
    with pytest.raises(ModelError, match="mm_projector_type is 'linear'"):
        llava.convert(stage_one(tmp_path / "linear", model.projector, "linear"), directory)


def test_their_whole_model_is_read(directory: str, tmp_path: Path) -> None:
    model = model_of(directory, hidden_width=3 * WIDTH)
    settings = json.loads((Path(directory) / "config.json").read_text())
    settings |= {"model_type": "llava_llama", "mm_projector_type": "mlp2x_3t_gelu"}
    two = tmp_path / "two"
    two.mkdir()
    (two / "config.json").write_text(json.dumps(settings))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (two / name).write_bytes((Path(directory) / name).read_bytes())
    parts = {f"model.mm_projector.{name}": part for name, part in model.projector.state_dict().items()}
    save_file({**model.language_model.state_dict(), **parts}, two / "model.safetensors")
    found = llava.convert(two)
    ids_BS, _, mask_BS = chat.padded([model.tokeniser.encode([chat.Turn("user", "What?", 1)])])
    cells_NU = torch.randn(1, CELLS)
    assert torch.allclose(found(ids_BS, mask_BS, cells_NU), model(ids_BS, mask_BS, cells_NU), atol=1e-6)


def test_a_hostile_projector_is_not_run(directory: str, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "ran").touch, ())

    folder = stage_one(tmp_path / "one", model_of(directory).projector)
    torch.save({"model.mm_projector.0.weight": Hostile()}, folder / "mm_projector.bin")
    with pytest.raises((UnsafePickle, ModelError)):
        llava.convert(folder, directory)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_chat_model_is_named(directory: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not the directory of a chat model"):
        chat.load(directory)
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        chat.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="names no architecture"):
        empty_language_model(tmp_path)
