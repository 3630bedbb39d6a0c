"""Drugs with doses through the command line: trained on, predicted at any dose, and one never seen."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from engine.training.metrics import read_metrics
from jobs import predict_perturbation, train_perturbation
from storage.ingest import IngestOptions, ingest
from storage.locations import Location

GENES = [f"G{number}" for number in range(16)]
KIND = {"up1": 1, "up2": 1, "up3": 1, "down1": -1, "down2": -1, "down3": -1}
DOSES = (0.1, 3.0)


def _screen() -> anndata.AnnData:
    """Drugs of one kind raise G0-G3, those of the other lower them, with the dose; G5 is also knocked out."""
    rng = np.random.default_rng(0)
    rows, names, doses = [], [], []
    for name, amount in [("DMSO", np.nan), ("G5", np.nan), *((d, a) for d in KIND for a in DOSES)]:
        rate = np.full(len(GENES), 8.0)
        rate[:4] *= np.exp(KIND.get(name, 0) * 0.6 * np.log1p(np.nan_to_num(amount)))
        rate[5] *= 0.05 if name == "G5" else 1
        rows.append(rng.poisson(rate, (40, len(GENES))))
        names += [name] * 40
        doses += [amount] * 40
    obs = pd.DataFrame({"drug": names, "um": doses}, index=[f"c{n}" for n in range(len(names))])
    counts = sparse.csr_matrix(np.concatenate(rows).astype(np.float32))
    return anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=GENES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drugs")
    _screen().write_h5ad(folder / "screen.h5ad")
    ingest([str(folder / "screen.h5ad")], str(folder / "store"), IngestOptions(gene_id_key="index"))
    bits = {"up": "1100", "down": "0011"}
    lines = [f"{name},{bits[name[:-1]]}" for name in [*KIND, "up4"]]
    (folder / "drugs.csv").write_text("\n".join(["drug,fingerprint", *lines]))
    return folder


def _train(folder: Path, *more: str) -> int:
    flags = [
        "--cells",
        str(folder / "store"),
        "--perturbation",
        "drug",
        "--control",
        "DMSO",
        "--workers",
        "0",
    ]
    sizes = ["--d-model", "8", "--layers", "1", "--members", "1", "--pathway-dim", "0", "--lr", "0.02"]
    steps = ["--steps", "60", "--judge-every", "30", "--conditions", "6", "--no-prior"]
    return train_perturbation.main([*flags, *sizes, *steps, *more])


def test_a_drug_never_seen_does_what_its_fingerprint_says_and_more_of_it_at_a_higher_dose(
    folder: Path, tmp_path: Path
) -> None:
    known = ["--drug-vectors", str(folder / "drugs.csv"), "--dose", "um"]
    assert _train(folder, *known, "--held-out", "up3,down3", "--output", str(folder / "model")) == 0
    held_out = pd.read_parquet(folder / "model" / "evaluation" / "held_out.parquet")
    assert set(held_out["perturbation"]) == {
        f"{name}@{dose:g}" for name in ("up3", "down3") for dose in DOSES
    }
    page = (folder / "model" / "evaluation" / "index.html").read_text()
    assert page.count("<svg") == 4
    assert "down3@0.1" in page
    curve = read_metrics(Location.of(folder / "model"))
    assert curve is not None
    rows = [row for row in curve.to_pylist() if row["held_out_pearson_delta"] is not None]
    assert [row["step"] for row in rows] == [29, 59]
    assert rows[-1]["held_out_mae"] < rows[-1]["held_out_mae_start"]

    output = tmp_path / "cells.h5ad"
    asked = "up3@0.1,up3@3,down3@3,up4@3,G5+up3@3"
    where = ["--model", str(folder / "model"), "--cells", str(folder / "store"), "--output", str(output)]
    flags = ["--perturbations", asked, "--cells-per-perturbation", "5", "--contract", "scperturb"]
    assert predict_perturbation.main([*where, *flags]) == 0
    cells = anndata.read_h5ad(output)
    assert set(cells.obs["perturbation"]) == {*asked.split(","), "control"}
    low, high, opposite, new, both = cells.varm["delta"][:4].mean(axis=0)
    assert high > 1.5 * abs(low)
    assert opposite < -0.1 < 0.1 < high
    assert new == pytest.approx(high, abs=0.05)
    assert both > 0.1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--dose", "um"], "give --drug-vectors"),
        (["--drug-vectors", "other.csv"], "none of its drugs"),
        (["--drug-vectors", "genes.csv"], "G1 names a gene"),
        (["--drug-vectors", "drugs.csv", "--dose", "nm"], "no column 'nm'"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    (folder / "other.csv").write_text("drug,a\nsalt,1\n")
    (folder / "genes.csv").write_text("drug,a\nG1,1\nup1,2\n")
    more = [str(folder / each) if each.endswith(".csv") else each for each in more]
    assert _train(folder, *more, "--output", str(folder / "none")) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "none").exists()
