"""The demo: its commands are real ones, and the small one runs from cells to page and resumes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import anndata
import pytest

from jobs import demo
from jobs.anatomy import parse
from jobs.demo_steps import FULL, SMALL, Sizes, steps

STREET = [
    "ingest",
    "train-encoder",
    "embed",
    "cache",
    "train-sae",
    "features",
    "enrich",
    "dashboard",
    "train-joint",
    "index",
    "phrases",
]


@pytest.mark.parametrize("sizes", [FULL, SMALL])
def test_every_step_is_a_command_its_job_accepts(sizes: Sizes) -> None:
    folder = Path("with a space")
    plan = steps(folder, sizes, seed=3)
    assert [step.job for step in plan] == STREET
    for step in plan:
        module = importlib.import_module("jobs." + step.job.replace("-", "_"))
        options = parse(step.job, module.Options, step.arguments)
        assert options.output == str(folder / step.name)
        assert step.command.startswith(f"syncytium {step.job} ")
        assert "'with a space" in step.command


@pytest.mark.parametrize(
    ("flags", "reason"),
    [(["--output", "s3://bucket/demo"], "local directory"), (["--max-cells", "5"], "--small")],
)
def test_what_the_demo_cannot_do(capsys: pytest.CaptureFixture[str], flags: list[str], reason: str) -> None:
    assert demo.main(flags) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_small_demo_from_cells_to_page_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    assert demo.main(["--small", "--output", str(folder)]) == 0
    said = capsys.readouterr().err
    assert "[12/12] page" in said
    assert (folder / "index.html").resolve().as_uri() in said
    record = json.loads((folder / "run.json").read_text())
    assert list(record["facts"]["steps"]) == [
        "cells",
        "encoder",
        "embeddings",
        "cache",
        "autoencoder",
        "features",
        "enrichment",
        "site",
        "joint",
        "index",
        "phrases",
    ]
    assert set(record["facts"]["found"]) == set(demo.QUESTIONS)
    assert "syncytium serve --index" in said
    assert 0 < record["facts"]["neighbour_accuracy_embeddings"] <= 1
    assert anndata.read_zarr(folder / "embeddings").shape == (700, SMALL.d_model)
    page = (folder / "index.html").read_text()
    assert page.count('class="right"') + page.count('class="wrong"') == 10 * len(demo.QUESTIONS)
    genes = json.loads((folder / "features" / "feature_gene_associations.json").read_text())
    assert len(genes) == SMALL.sae_features

    assert demo.main(["--small", "--output", str(folder)]) == 0
    said = capsys.readouterr().err
    assert said.count("already complete") == len(STREET) + 2
    assert (folder / "index.html").read_text() == page
