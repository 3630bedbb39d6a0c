"""`conversations` and `train-chat` from the command line, in this process: what they write and refuse."""

import json
from pathlib import Path

import pytest

from engine.models import chat
from engine.training.metrics import read_metrics
from jobs import conversations, train_chat
from storage.locations import Location
from tests.retrieval.blood import Blood, blood, small_counts
from tests.training.chat_inputs import ANSWER, language_model_for

__all__ = ["blood", "small_counts"]


@pytest.fixture(scope="module")
def talk(blood: Blood, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = str(tmp_path_factory.mktemp("talk") / "out")
    flags = ["--cells", blood.store, "--caption", ANSWER, "--per-cell", "2", "--pairs", "20"]
    assert conversations.main([*flags, "--max-cells", "20", "--output", output]) == 0
    return output


@pytest.fixture(scope="module")
def command(blood: Blood, talk: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    language_model = language_model_for(blood.store, tmp_path_factory.mktemp("language") / "model")
    inputs = ["--conversations", talk, "--joint", blood.joint, "--language-model", language_model]
    small = ["--soft-tokens", "2", "--hidden-width", "16", "--workers", "0"]
    return [*inputs, *small, "--embeddings", blood.embeddings]


def test_conversations_are_in_their_format(talk: str, capsys: pytest.CaptureFixture[str]) -> None:
    records = [json.loads(line) for line in (Path(talk) / "conversations.jsonl").read_text().splitlines()]
    assert len(records) == 2 * 19 + 20  # one of the 20 cells has no counts
    assert [turn["from"] for turn in records[0]["conversations"]] == ["human", "gpt"]
    assert records[0]["conversations"][0]["value"].endswith("\n<image>")
    assert records[0]["conversations"][1]["value"].startswith("These seem to be ")
    assert len(records[-1]["image"]) == records[-1]["conversations"][0]["value"].count("<image>") == 2
    assert len({record["id"] for record in records}) == len(records)


def test_both_stages_with_their_records(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    flags = [*command, "--held-out-share", "0.2", "--steps", "4", "--batch-conversations", "8"]
    assert train_chat.main([*flags, "--output", first, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["counts_out"]["steps"] == 4
    assert printed["counts_in"]["held_out_conversations"] > 0
    assert printed["facts"]["published"]["held_out_loss"] > 0
    assert train_chat.main([*flags, "--output", first]) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert train_chat.main([*flags, "--seed", "1", "--output", first]) == 2
    assert "training.seed" in capsys.readouterr().err
    full = [*flags, "--stage", "full", "--start", first, "--lr", "3e-3", "--steps", "12", "--output", second]
    assert train_chat.main(full) == 0
    table = read_metrics(Location.of(second))
    assert table is not None
    held_out = table.column("held_out_loss").to_pylist()
    assert held_out[-1] < held_out[0]
    model = chat.load(second)
    assert model.config.n_tokens == 2
    assert model.config.metadata["training"]["stage"] == "full"
    assert model.config.joint is not None


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--conversations", "/nowhere.jsonl"], "--conversations /nowhere.jsonl: no such file"),
        (["--language-model", "/nowhere"], "/nowhere"),
        (["--joint", "/nowhere"], "/nowhere"),
        (["--template", "chatml"], "no token '<|im_end|>'"),
        (["--lora", "4"], "--lora"),
        (["--max-tokens", "20"], "does not fit into --max-tokens 20"),
        (["--epochs", "0"], "--epochs"),
        (["--held-out-share", "1"], "--held-out-share 1.0"),
        (["--cells", "/nowhere"], "--cells and --embeddings"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], reason: str
) -> None:
    given = dict(zip(command[::2], command[1::2], strict=True))
    given |= dict(zip(flags[::2], flags[1::2], strict=True))
    flat = [part for pair in given.items() for part in pair]
    assert train_chat.main([*flat, "--output", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
