"""`train-joint` from the command line, in this process: what it writes, repeats and refuses."""

import json
from pathlib import Path

import pytest

from engine.models import joint
from jobs.demo_text import minilm_directory, require_weights
from jobs.train_joint import main
from storage.errors import InputError


@pytest.fixture
def command(donor_cells: str, cell_tower: str, text_tower: str, cell_features: str) -> list[str]:
    towers = ["--cells", donor_cells, "--cell-tower", cell_tower, "--text-tower", text_tower]
    return [
        *towers,
        "--workers",
        "0",
        "--steps",
        "3",
        "--batch-pairs",
        "16",
        "--cell-features",
        cell_features,
    ]


CAPTION = ["--caption", "{cell_type} from {tissue}"]


def test_a_joint_model_with_its_record(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*command, *CAPTION, "--dims", "16,8,4", "--hold-out", "donor=107", "--sample-weights", "radius"]
    assert main([*flags, "--output", str(tmp_path / "out"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["counts_out"] == {"steps": 3, "pairs": 48}
    assert printed["counts_in"]["cells"] + printed["counts_in"]["held_out_cells"] == 400
    assert 0 <= printed["facts"]["published"]["held_out_text_to_cell_at_1"] <= 1
    model = joint.load(tmp_path / "out")
    assert model.config.dims == (4, 8, 16)
    assert model.config.metadata["training"]["captions"] == 5
    assert model.embed_texts(["B cell from blood"], dim=4).shape == (1, 4)
    assert main([*flags, "--output", str(tmp_path / "out")]) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert main([*flags, "--seed", "1", "--output", str(tmp_path / "out")]) == 2
    assert "* training.seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("preset", "head", "width"), [("cellwhisperer", "residual", 2048), ("lingocell", "sphere", 512)]
)
def test_presets(command: list[str], tmp_path: Path, preset: str, head: str, width: int) -> None:
    assert main([*command, *CAPTION, "--preset", preset, "--steps", "1", "--output", str(tmp_path)]) == 0
    model = joint.load(tmp_path)
    assert (model.config.head, model.config.width) == (head, width)
    assert model.config.metadata["training"]["locking"] == "LU"


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ([], "give --caption COLUMN or TEMPLATE, or --captions FILE"),
        (["--caption", "colour"], "has no obs column 'colour'"),
        (["--caption", "{cell_type", "--json"], "caption template"),
        ([*CAPTION, "--locking", "LX"], "--locking 'LX'"),
        ([*CAPTION, "--locking", "UL"], "--cell-features"),
        ([*CAPTION, "--text-lora", "4"], "LoRA needs a text tower marked U"),
        ([*CAPTION, "--hold-out", "donor"], "expected COLUMN=VALUE"),
        ([*CAPTION, "--split-by", "tissue"], "one group"),
        ([*CAPTION, "--dims", "16,wide"], "--dims 16,wide"),
        ([*CAPTION, "--accumulation", "2"], "--accumulation"),
        ([*CAPTION, "--max-tokens", "5000"], "--max-tokens 5000"),
        ([*CAPTION, "--text-tower", "/nowhere"], "/nowhere"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], reason: str
) -> None:
    assert main([*command, *flags, "--output", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_key_given_twice_is_named(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CellWhisperer's ablations gave `model` twice, and trained another model than they say."""
    config = tmp_path / "config.yaml"
    config.write_text("caption: cell_type\nlocking: LL\nlocking: LU\n")
    assert main([*command, "--config", str(config), "--output", str(tmp_path / "out")]) == 2
    assert "line 3: key 'locking' is given twice" in capsys.readouterr().err


def test_the_text_tower_of_the_demo_is_the_published_one(tmp_path: Path) -> None:
    tower = joint.load_text_tower(minilm_directory())
    assert (tower.d_model, tower.pool) == (384, "mean")
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(InputError, match="has been changed"):
        require_weights(tmp_path)
