"""The chat recipe on real blood cells: conversations read strictly, cells learnt by heart, exact resumes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.models import chat
from engine.models.chat.tokenise import NO_LABEL
from engine.training.metrics import read_metrics
from engine.training.recipe import Share
from engine.training.recipes.chat import ChatRecipe, read_conversations
from engine.training.recipes.chat.examples import examples_of
from engine.training.run import run_training
from storage.cells import CellStore
from storage.embeddings import Embeddings
from storage.errors import InputError, LineageMismatch
from storage.locations import Location
from tests.retrieval.blood import Blood, blood, small_counts
from tests.training.chat_inputs import language_model_for, options_of, recipe_of, spoken
from tests.training.test_run import Interruption, interrupt_at

__all__ = ["blood", "small_counts"]

KINDS = ("B cell", "CD14+ monocyte", "natural killer cell")


@pytest.fixture(scope="module")
def language_model(blood: Blood, tmp_path_factory: pytest.TempPathFactory) -> str:
    return language_model_for(blood.store, tmp_path_factory.mktemp("language") / "model")


@pytest.fixture(scope="module")
def talk(blood: Blood, tmp_path_factory: pytest.TempPathFactory) -> str:
    """About four cells of each of three types, and the comparisons of some."""
    kinds = CellStore.open(blood.store).obs(["cell_type"])["cell_type"].astype(str)
    cells = [str(name) for kind in KINDS for name in kinds.index[kinds == kind][:4]]
    return spoken(blood.store, tmp_path_factory.mktemp("talk"), cells)


def recipe(blood: Blood, talk: str, language_model: str, output: Path, **others: Any) -> ChatRecipe:
    given = {"embeddings": blood.embeddings, "held_out_share": 0.0, **others}
    return recipe_of(talk, blood.joint, language_model, output, **given)


def test_a_handful_of_cells_is_learnt_by_heart(
    blood: Blood, talk: str, language_model: str, tmp_path: Path
) -> None:
    """The loss falls, and greedy answers about each cell's vector name its type."""
    run_training(
        recipe(blood, talk, language_model, tmp_path), options_of(steps=100, batch=12), Location.of(tmp_path)
    )
    table = read_metrics(Location.of(tmp_path))
    assert table is not None
    losses = table.column("loss").to_pylist()
    assert losses[0] > 4
    assert losses[-1] < 0.2
    model, embeddings = chat.load(tmp_path), Embeddings.open(blood.embeddings)
    names = [str(name) for name in embeddings.obs.index]
    for conversation in read_conversations(talk):
        (cell,) = conversation.cells
        ids_S = model.tokeniser.encode(conversation.turns[:1]).ids_S
        cells_NU = torch.from_numpy(embeddings.rows(np.array([names.index(str(cell))])))
        said = "".join(chat.generate(model, ids_S, cells_NU, chat.Sampling(max_new_tokens=40)))
        assert said.strip() == conversation.turns[1].text


def test_the_first_stage_leaves_the_language_model_alone(
    blood: Blood, talk: str, language_model: str, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    one = recipe(blood, talk, language_model, first, stage="projector")
    run_training(one, options_of(steps=4), Location.of(first))
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        copied = first / "language_model" / name
        assert copied.read_bytes() == (Path(language_model) / name).read_bytes()
    stored = list((first / "checkpoints").glob("step_*/worker_*.safetensors"))
    assert stored
    # Weights of the projector and Adam's two moments of them; nothing of the language model.
    n_weights = sum(weight.numel() for weight in chat.load_projector(first).parameters())
    assert max(file.stat().st_size for file in stored) < 4 * 3 * n_weights + 4096
    two = recipe(blood, talk, None, second, stage="full", lora=2, start=str(first))  # type: ignore[arg-type]
    module = two.build(seed=0)
    trains = [name for name, weight in module.named_parameters() if weight.requires_grad]
    assert all("projector" in name or name.endswith(("a_RI", "b_OR")) for name in trains)
    before = chat.load_projector(first).state_dict()
    assert all(torch.equal(part, before[name]) for name, part in module.model.projector.state_dict().items())
    run_training(two, options_of(steps=4), Location.of(second))
    merged, plain = (
        chat.load(second).language_model.state_dict(),
        chat.load(first).language_model.state_dict(),
    )
    assert set(merged) == set(plain)
    assert any(not torch.equal(merged[name], plain[name]) for name in plain)


@pytest.mark.parametrize(("stage", "lora", "zero"), [("projector", 0, 2), ("full", 2, 3)])
def test_a_killed_run_goes_on_exactly(
    blood: Blood, talk: str, language_model: str, tmp_path: Path, stage: str, lora: int, zero: int
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    others: dict[str, Any] = {"stage": stage, "lora": lora, "held_out_share": 0.25, "judge_every": 3}
    given = options_of(steps=6, batch=4, zero=zero, checkpoint_every=2)
    run_training(recipe(blood, talk, language_model, whole, **others), given, Location.of(whole))
    again = recipe(blood, talk, language_model, cut, **others)
    with pytest.raises(Interruption):
        run_training(again, given, Location.of(cut), progress=interrupt_at(5))
    assert run_training(again, given, Location.of(cut)).first_step == 4
    for name in ("loss", "held_out_loss", "held_out_accuracy"):
        curves = [read_metrics(Location.of(output)).column(name).to_pylist() for output in (whole, cut)]  # type: ignore[union-attr]
        assert curves[0] == curves[1]
    ours, theirs = chat.load(whole), chat.load(cut)
    for one, again_one in ((ours.projector, theirs.projector), (ours.language_model, theirs.language_model)):
        assert all(torch.equal(part, again_one.state_dict()[n]) for n, part in one.state_dict().items())
    other = recipe(blood, talk, language_model, cut, **{**others, "split_seed": 1})
    with pytest.raises(LineageMismatch):
        run_training(other, given, Location.of(cut))


def test_workers_share_a_batch_and_the_loss_does_not_tell(
    blood: Blood, talk: str, language_model: str, tmp_path: Path
) -> None:
    """The mean of the losses of a batch's parts is the loss of the whole, however long their answers are."""
    ours = recipe(blood, talk, language_model, tmp_path)
    module = ours.build(seed=0).eval()
    device = torch.device("cpu")
    whole = next(iter(ours.batches(module, 2, Share(0, 1, 8, 1, seed=3), device)))
    parts = [next(iter(ours.batches(module, 2, Share(rank, 2, 8, 1, seed=3), device))) for rank in range(2)]
    n = parts[0]["ids_BS"].shape[1]
    assert torch.equal(parts[0]["ids_BS"], whole["ids_BS"][:4, :n])
    losses = [float(module(part).loss) for part in parts]
    assert float(module(whole).loss) == pytest.approx(sum(losses) / 2, rel=1e-4)
    assert (whole["labels_BS"] != NO_LABEL).any(1).all()


def test_cells_held_out_are_in_no_batch(blood: Blood, language_model: str, tmp_path: Path) -> None:
    talk = spoken(blood.store, tmp_path / "talk", per_cell=3)
    ours = recipe(blood, talk, language_model, tmp_path / "out", held_out_share=0.2)
    examples = examples_of(ours)
    learnt, held = examples.split(0.2, 0)
    groups = np.array(examples.groups)
    assert not set(groups[learnt]) & set(groups[held])
    assert len(set(groups[held])) == round(0.2 * len(set(groups)))
    share = Share(0, 1, len(learnt), 1, seed=0)
    first, second = (next(examples.batches(learnt, step, share)) for step in (0, 1))
    # Every conversation once in an epoch, in another order in the next.
    assert first["ids_BS"].sum() == second["ids_BS"].sum()
    assert not torch.equal(first["cells_NU"], second["cells_NU"])


def a_record(**changes: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": "What?\n<image>"}, {"from": "gpt", "value": "B cells."}]
    return {"id": "c1", "image": "cell", "conversations": turns, **changes}


def test_an_array_and_lines_are_read_alike(tmp_path: Path) -> None:
    records = [
        a_record(),
        a_record(id=2, image=[0.5, 1.0]),
        a_record(
            image=["a", [0.1, 0.2]],
            conversations=[
                {"from": "human", "value": "<image>\nThis?"},
                {"from": "gpt", "value": "B cells.\u2028Mostly."},
                {"from": "human", "value": "<image>"},
                {"from": "gpt", "value": "T cells."},
            ],
        ),
    ]
    (tmp_path / "array.json").write_text(json.dumps(records))
    lines = "\n\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    (tmp_path / "lines.jsonl").write_text(lines)
    found = read_conversations(str(tmp_path / "array.json"))
    assert found == read_conversations(str(tmp_path / "lines.jsonl"))
    assert found[1].cells == ((0.5, 1.0),)
    assert found[2].cells == ("a", (0.1, 0.2))
    assert [turn.n_cells for turn in found[2].turns] == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "holds no conversation"),
        ("{", "line 1: is no JSON"),
        ("[1]", "record 0: expected an object, found int"),
        (json.dumps(a_record(id=None)), "line 1: id is None"),
        (json.dumps(a_record(image=None)), r"line 1 \(id c1\): image is None"),
        (json.dumps(a_record(image=[])), "image is empty"),
        (json.dumps(a_record(image=[1.0, float("nan")])), "expected a cell's name, or a list of finite"),
        (json.dumps(a_record(image=["a", "b"])), "2 cells in image, but <image> stands 1 times"),
        (json.dumps(a_record(conversations=[])), "must be a list of pairs"),
        (json.dumps(a_record(conversations=[{"from": "gpt", "value": "x"}] * 2)), "turn 0 is from 'gpt'"),
        (
            json.dumps(
                a_record(conversations=[{"from": "human", "value": "x"}, {"from": "gpt", "value": " "}])
            ),
            "turn 1 has no words",
        ),
        (
            json.dumps(
                a_record(conversations=[{"from": "human", "value": "x"}, {"from": "gpt", "value": "<image>"}])
            ),
            "only the human brings cells",
        ),
    ],
)
def test_a_wrong_record_is_named(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "talk.jsonl").write_text(content)
    with pytest.raises(InputError, match=reason):
        read_conversations(str(tmp_path / "talk.jsonl"))


@pytest.mark.parametrize(
    ("records", "others", "reason"),
    [
        ([a_record()], {}, "there is no cell 'cell'"),
        ([a_record()], {"embeddings": None}, "give --cells STORE or --embeddings"),
        ([a_record(image=[0.5, 1.0])], {}, "a vector of 2 numbers; the joint model's have 32"),
        ([a_record(image=[0.5] * 32)], {"held_out_share": 0.5}, "--held-out-share 0.5: of 1 different cells"),
        ([a_record(image=[0.5] * 32)], {"stage": "projector", "lora": 4}, "--lora"),
    ],
)
def test_what_cannot_be_learnt_is_refused(
    blood: Blood, language_model: str, tmp_path: Path, records: list[Any], others: dict[str, Any], reason: str
) -> None:
    (tmp_path / "talk.json").write_text(json.dumps(records))
    with pytest.raises(InputError, match=reason):
        recipe(blood, str(tmp_path / "talk.json"), language_model, tmp_path / "out", **others)
    assert not (tmp_path / "out").exists()
