"""STRING and Open Targets: scores made again without circular evidence, whatever the size of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from engine.interpret.databases import opentargets, string
from engine.interpret.databases.opentargets import harmonic_sums
from storage.errors import InputError
from tests.interpret.databases.conftest import take_in

ENDS = "9606.P1 9606.P2"


def string_files(tmp_path: Path, header: str, *rows: str) -> dict[str, Path]:
    links, info = tmp_path / "9606.protein.links.v12.0.txt", tmp_path / "9606.protein.info.v12.0.txt"
    links.write_text("\n".join([f"protein1 protein2 {header}", *rows]) + "\n")
    proteins = "".join(f"9606.P{number}\tG{number}\n" for number in range(1, 5))
    info.write_text("#string_protein_id\tpreferred_name\n" + proteins)
    return {"links": links, "info": info}


DETAILED = "neighborhood fusion cooccurence coexpression experimental database textmining combined_score"


def test_channels_are_left_out_of_the_score(tmp_path: Path) -> None:
    rows = (f"{ENDS} 0 0 0 900 500 0 900 990", "9606.P3 9606.P4 0 0 0 900 0 0 900 985")
    files = string_files(tmp_path, DETAILED, *rows)
    edges = take_in("string", files, string.Rules(threshold=400)).edges
    assert edges is not None
    # One channel alone: what goes in comes out.
    assert edges.to_numpy().tolist() == [["G1", "G2", 500.0]]
    every = take_in("string", files, string.Rules(threshold=400, without=())).edges
    assert every is not None
    assert every["score"].tolist() == [990, 985]


def test_with_all_channels_the_published_score_comes_out(excerpts: Path) -> None:
    for kind, closest in (("detailed", 1.2), ("full", 3.0)):
        path = excerpts / "string" / f"9606.protein.links.{kind}.v12.0.txt"
        table = pd.read_csv(path, sep=" ")
        layout = next(each for each in string.LINKS.layouts if each.name == kind)
        values = table[list(layout.columns[2:])].to_numpy(float)
        again = string._combined(values, kind, ("nobody",))
        assert np.quantile(np.abs(again - table["combined_score"]), 0.95) <= closest


@pytest.mark.parametrize("rows_at_once", [1, 7])
def test_edges_do_not_depend_on_the_batch(
    excerpts: Path, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    folder = excerpts / "string"
    files = {
        "links": folder / "9606.protein.links.detailed.v12.0.txt",
        "info": folder / "9606.protein.info.v12.0.txt",
    }
    at_once = take_in("string", files, string.Rules()).edges
    monkeypatch.setattr(string, "_ROWS", rows_at_once)
    edges = take_in("string", files, string.Rules()).edges
    assert at_once is not None
    assert edges is not None
    pd.testing.assert_frame_equal(edges, at_once)
    assert (edges["gene_a"] < edges["gene_b"]).all()
    assert len(edges) > 50


def test_string_refusals(tmp_path: Path) -> None:
    files = string_files(
        tmp_path, "combined_score", f"{ENDS} 800", "9606.P2 9606.P1 800", "9606.P3 9606.P3 900"
    )
    intake = take_in("string", files, string.Rules())
    assert intake.edges is not None
    assert intake.edges.to_numpy().tolist() == [["G1", "G2", 800.0]]
    assert "no channels" in intake.notes[0]
    for rows, reason in (
        ((f"{ENDS} 800", f"{ENDS} 800"), "there twice"),
        ((f"{ENDS} high",), "no number"),
        ((f"{ENDS}",), "2 fields, the header has 3"),
    ):
        with pytest.raises(InputError, match=reason):
            take_in("string", string_files(tmp_path, "combined_score", *rows), string.Rules())
    with pytest.raises(InputError, match="unknown layout"):
        take_in("string", string_files(tmp_path, "score", f"{ENDS} 800"), string.Rules())
    with pytest.raises(InputError, match=r"no 9606\.protein\.info"):
        take_in("string", {"links": files["links"]}, string.Rules())


def test_harmonic_sums() -> None:
    largest = np.pi**2 / 6
    pair = np.array([5, 3, 5, 5, 3], np.int64)
    source = np.array([0, 0, 1, 1, 2], np.int8)
    scores = np.array([0.2, 1.0, 0.8, 0.1, 0.5])
    pairs, sums = harmonic_sums(pair, source, scores)
    assert pairs.tolist() == [3, 5]
    # 0.1 is of a source that has scored the pair higher already.
    assert sums * largest == pytest.approx([1.0 + 0.5 / 4, 0.8 + 0.2 / 4], abs=1e-4)


def test_text_mining_is_left_out(excerpts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = excerpts / "open_targets" / "26.06__association_by_datasource_direct.parquet"
    intake = take_in("opentargets", {"by_source_direct": path}, opentargets.Rules())
    table = pd.read_parquet(path)
    table = table[~table["aggregationValue"].isin(["europepmc", "expression_atlas"])]
    assert 0 < len(intake.associations) < table["targetId"].nunique()
    assert {link.gene[0] for link in intake.associations} <= set(table["targetId"])
    assert {link.evidence for link in intake.associations} == {"overall without europepmc, expression_atlas"}
    monkeypatch.setattr(opentargets, "_ROWS", 5)
    in_batches = take_in("opentargets", {"by_source_direct": path}, opentargets.Rules())
    assert in_batches.associations == intake.associations


def test_open_targets_names_its_terms_and_genes(tmp_path: Path) -> None:
    frames: dict[str, dict[str, list[Any]]] = {
        "overall_direct": {"diseaseId": ["D2", "D2"], "targetId": ["ENSG1", "ENSG2"], "score": [0.9, 0.1]},
        "diseases": {"id": ["D1", "D2"], "name": ["disease", "narrow disease"], "parents": [[], ["D1"]]},
        "targets": {"id": ["ENSG1"], "approvedSymbol": ["A"]},
    }
    for name, columns in frames.items():
        pd.DataFrame(columns).to_parquet(tmp_path / f"{name}.parquet")
    files = {name: tmp_path / f"{name}.parquet" for name in frames}
    intake = take_in("opentargets", files, opentargets.Rules())
    assert list(intake.associations) == [(("ENSG1", "A"), "D2", "overall")]
    assert intake.terms == {"D1": ("disease", ()), "D2": ("narrow disease", ("D1",))}
    assert "no association_by_datasource files" in intake.notes[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "0 bytes"), (b"<html>", "a web page"), (b"PAR1 and then nothing", "not a whole Parquet file")],
)
def test_open_targets_refuses(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "association_overall_direct.parquet"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason):
        take_in("opentargets", {"overall_direct": path}, opentargets.Rules())


def test_open_targets_with_another_score_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "association_overall_direct.parquet"
    pd.DataFrame({"diseaseId": ["D"], "targetId": ["T"], "novelScore": [1.0]}).to_parquet(path)
    with pytest.raises(InputError, match="columns found: diseaseId, targetId, novelScore"):
        take_in("opentargets", {"overall_direct": path}, opentargets.Rules())
