"""Cells and a joint model -> index -> answers to texts, on the command line and on Ray."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from jobs.__main__ import main
from storage.embeddings import Embeddings
from storage.index import VectorIndex
from tests.retrieval.joint_index import stored, trained_joint


@pytest.fixture(scope="module")
def folder(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("joint-jobs")
    cells = anndata.read_h5ad(shared / "data" / "pbmc3k.h5ad")[::8].copy()
    trained_joint(cells, path)
    stored(cells, path)
    (path / "types.txt").write_text("# types\nB cell\nplatelet\nmonocyte\n\nB cell\n")
    (path / "states.json").write_text(json.dumps({"states": ["naive", "activated"]}))
    return path


@pytest.fixture(scope="module")
def index(folder: Path, ray_cluster: None) -> Path:
    flags = ["--cells", folder / "store", "--joint", folder / "joint", "--output", folder / "index"]
    flags += ["--short-dims", 16, "--columns", "cell_type,n_genes", "--calibrate", "cell_type"]
    assert main(["index", *map(str, flags)]) == 0
    before = VectorIndex.open(str(folder / "index")).version
    assert main(["index", *map(str, flags)]) == 0
    assert VectorIndex.open(str(folder / "index")).version == before == 2
    return folder / "index"


def facts_of(printed: str) -> dict:
    return json.loads(printed.strip().splitlines()[-1])["facts"]


def test_texts_on_the_command_line(folder: Path, index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (embedded,) = (folder / "index.embeddings").iterdir()
    vectors = Embeddings.open(str(embedded))
    capsys.readouterr()
    asked = ["search", "--index", index, "--query", "B cell", "--filter", "cell_type == 'B cell'", "--json"]
    assert main([*map(str, asked), "--rerank", "--score-all", str(folder / "scores.npy")]) == 0
    printed = capsys.readouterr().out
    facts = facts_of(printed)
    assert "the joint model's own, frozen" in printed
    assert facts["verdict"] in printed.split("verdict: ")[1].splitlines()[0]
    assert {hit["obs"]["cell_type"] for hit in facts["hits"]} == {"B cell"}
    assert facts["joint"] == vectors.lineage["model"]
    assert "score" not in facts["calibration"]
    scores = np.load(folder / "scores.npy")
    assert scores.shape == (vectors.n_cells,)
    assert scores[facts["hits"][0]["row"]] == pytest.approx(facts["hits"][0]["score"], abs=2e-3)

    asked = ["search", "--index", index, "--query", "platelet -B cell", "--joint", folder / "joint"]
    assert main([*map(str, asked), "--score-all", str(folder / "scores.parquet")]) == 0
    assert "no verdict: the calibration is of cosines with one phrase" in capsys.readouterr().out
    table = pd.read_parquet(folder / "scores.parquet")
    assert table["name"].tolist() == list(vectors.obs.index[table["row"]])


def test_phrases_on_the_command_line(folder: Path, index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    terms = ["--terms", str(folder / "types.txt"), str(folder / "states.json")]
    made = ["phrases", *terms, "--joint", str(folder / "joint"), "--output", str(folder / "bank")]
    assert main(made) == 0
    assert main(made) == 0
    assert "already complete" in capsys.readouterr().err
    asked = ["search", "--index", str(index), "--phrases", str(folder / "bank"), "--json", "--top-k", "4"]
    assert main([*asked, "--cells-query", "cell_type = 'B cell'", "--minus", "cell_type = 'platelet'"]) == 0
    facts = facts_of(capsys.readouterr().out)
    assert facts["hits"][0]["term"] == "B cell"
    assert [len(rows) for rows in facts["by_library"].values()] == [2, 3]
    assert (
        main(
            [
                "search",
                "--index",
                str(index),
                "--query",
                "Zellen aus der Leber",
                "--phrases",
                str(folder / "bank"),
            ]
        )
        == 0
    )
    assert "warning: this looks German" in capsys.readouterr().err


def test_markers_on_the_command_line(folder: Path, index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        "search",
        "--index",
        str(index),
        "--rerank",
        "markers",
        "--cells",
        str(folder / "store"),
        "--json",
    ]
    assert main([*asked, "--query", "B cell +MS4A1", "--top-k", "5"]) == 0
    facts = facts_of(capsys.readouterr().out)
    assert facts["markers"] == {"MS4A1": 1.0}
    assert all(hit["markers"]["MS4A1"] > 0 for hit in facts["hits"][:3])
    assert main([*asked, "--query", "B cell"]) == 2
    assert "names no gene of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--query", "B cell", "--rerank", "markers"], "go together"),
        (["--query", "B cell", "--cells-query", "row = 1"], "one of them says what to look for"),
        (["--query", "B cell +"], "expected a phrase at character 9"),
        (["--cells-query", "row = 1", "--template", "tissue"], "say how --query is embedded"),
        (["--query", "B cell", "--joint", "J/cell"], "must be embedded by the same joint model"),
        (["--query", "B cell", "--score-all", "x.csv"], "must end in .npy or .parquet"),
        (["--cells-query", "row = 1", "--phrases", "J"], "no dataset here"),
    ],
)
def test_refusals(
    folder: Path, index: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [flag.replace("J", str(folder / "joint")) for flag in flags]
    assert main(["search", "--index", str(index), *given]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cells", "store"], "name it with --joint"),
        (["--cells", "store", "--joint", "joint", "--short-dims", "64"], "the joint model has 32 dimensions"),
        (["--cells", "store", "--joint", "joint", "--calibrate", "kind"], "no obs column kind"),
        (["--cells", "store", "--joint", "joint/cell"], "not the directory of a joint model"),
        (["--cells", "store", "--joint", "joint", "--template", "tissue"], "which is missing"),
    ],
)
def test_index_refuses_before_it_embeds(
    folder: Path,
    index: Path,
    tmp_path: Path,
    flags: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(folder / flag) if flag.startswith(("store", "joint")) else flag for flag in flags]
    assert main(["index", "--output", str(tmp_path / "out"), *given]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_cells_of_another_model_are_not_appended(
    folder: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And are not embedded first."""
    before = sorted((folder / "index.embeddings").iterdir())
    asked = ["--append", "--cells", folder / "store", "--joint", folder / "joint" / "cell"]
    assert main(["index", "--output", str(index), *map(str, asked)]) == 2
    assert "must be embedded by the same joint model" in capsys.readouterr().err
    assert sorted((folder / "index.embeddings").iterdir()) == before
