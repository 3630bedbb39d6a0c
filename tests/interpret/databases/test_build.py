"""From a folder of files to a dataset: gene names, terms, provenance, and nothing half written."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from engine.interpret.databases import Databases, build
from engine.interpret.databases.found import find_sources
from engine.interpret.databases.origins import write_origin
from storage import databases as stored
from storage.errors import InputError, LineageMismatch
from storage.locations import Location

HGNC = (
    "hgnc_id\tsymbol\tstatus\tprev_symbol\talias_symbol\tensembl_gene_id\tentrez_id\n"
    "HGNC:1\tNEW1\tApproved\tOLD1\tSAME\tENSG1\t11\nHGNC:2\tNEW2\tApproved\t\tSAME\tENSG2\t12\n"
)
GENCC = (
    "uuid,gene_curie,gene_symbol,disease_curie,disease_title,classification_title,submitted_run_date\n"
    "u1,HGNC:1,OLD1,MONDO:3,three,Strong,2026-01-05\n"
    "u2,HGNC:9,gag,MONDO:3,three,Definitive,2026-01-05\n"
    "u3,HGNC:1,NEW1,MONDO:3,three,Strong,2026-01-06\n"
    "u4,HGNC:2,NEW2,MONDO:5,five,Limited,2026-01-06\n"
)
MONDO = (
    "format-version: 1.2\n\n[Term]\nid: MONDO:1\nname: disease\n\n[Term]\nid: MONDO:3\n"
    "name: three, by Mondo\nis_a: MONDO:1\n\n[Term]\nid: MONDO:7\nname: not used\nis_a: MONDO:1\n"
)
LINKS = "protein1 protein2 combined_score\n9606.P1 9606.P2 800\n9606.P3 9606.P2 900\n9606.P1 9606.P3 950\n"
INFO = "#string_protein_id\tpreferred_name\n9606.P1\tOLD1\n9606.P2\tX\n9606.P3\tNEW1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for name, content in {
        "hgnc_complete_set.txt": HGNC,
        "gencc-submissions.csv": GENCC,
        "mondo.obo": MONDO,
        "mine.gmt": "set one\tlink\tSAME\tNEW2\tOLD1\n",
        "9606.protein.links.v12.0.txt": LINKS,
        "9606.protein.info.v12.0.txt": INFO,
    }.items():
        (folder / name).write_text(content)
    return folder


def built(folder: Path, output: Path, preset: str = "recommended", overwrite: bool = False) -> Databases:
    build.build(find_sources(folder), preset, Location.of(output), overwrite=overwrite)
    return Databases.open(output)


def test_genes_go_by_their_approved_symbols(folder: Path, tmp_path: Path) -> None:
    databases = built(folder, tmp_path / "out")
    assert databases.sources == ["string", "gencc", "gmt-mine"]
    gencc = databases.associations("gencc")
    assert gencc[["gene", "term_id", "evidence", "release"]].to_numpy().tolist() == [
        ["NEW1", "MONDO:3", "Strong", "2026-01-06"],
        ["gag", "MONDO:3", "Definitive", "2026-01-06"],
    ]
    assert sorted(databases.associations("gmt-mine")["gene"]) == ["NEW1", "NEW2", "SAME"]
    assert databases.unmapped("gmt-mine").to_numpy().tolist() == [["SAME", "ambiguous", 1]]
    assert databases.unmapped("gencc").to_numpy().tolist() == [["gag", "unmatched", 1]]
    genes = databases.genes.set_index("gene")
    assert genes.index.is_unique
    assert list(genes.loc["NEW1"])[:3] == ["HGNC:1", "ENSG1", "11"]
    assert databases.describe("gmt-mine")["genes_found_by"] == {"ambiguous": 1, "previous": 1, "symbol": 1}


def test_edges_of_one_gene_fall_together(folder: Path, tmp_path: Path) -> None:
    databases = built(folder, tmp_path / "out")
    # P1 and P3 are both NEW1: their edge is none, and the better of their edges to X stays.
    assert databases.edges().to_numpy().tolist() == [["NEW1", "X", 900.0]]
    assert databases.networks == ["string"]
    assert databases.associations("string").empty
    with pytest.raises(InputError, match="gencc has no edges"):
        databases.edges("gencc")


def test_terms_come_with_what_is_above_them(folder: Path, tmp_path: Path) -> None:
    terms = built(folder, tmp_path / "out").terms("gencc").set_index("term_id")
    assert sorted(terms.index) == ["MONDO:1", "MONDO:3"]
    assert terms["name"]["MONDO:3"] == "three, by Mondo"
    assert terms["parents"]["MONDO:3"].tolist() == ["MONDO:1"]
    assert set(terms["group"]) == {"Mendelian disease"}


def test_provenance_and_licences(folder: Path, tmp_path: Path) -> None:
    gmt = folder / "mine.gmt"
    origin = {"url": "http://a/b", "final_url": "http://c/d", "etag": "e", "last_modified": "July"}
    write_origin(gmt, origin | {"downloaded": "now", "size": gmt.stat().st_size, "sha256": "x"})
    databases = built(folder, tmp_path / "out")
    gencc = databases.describe("gencc")
    assert gencc["rows_read"] == 4
    assert gencc["dropped"] == {"classification Limited": 1}
    assert gencc["rules"]["classifications"] == ["Definitive", "Strong", "Moderate"]
    assert {entry["name"]: entry["layout"] for entry in gencc["files"]} == {
        "gencc-submissions.csv": "30 columns (until 2026)",
        "mondo.obo": "OBO",
    }
    assert all(len(entry["sha256"]) == 64 for entry in gencc["files"])
    mine = databases.describe("gmt-mine")
    assert mine["files"][0].items() >= origin.items()
    assert (mine["release"], databases.associations("gmt-mine")["release"].unique().tolist()) == (
        "July",
        ["July"],
    )
    licences = databases.licences().set_index("source")
    assert licences.loc["string", "licence"] == "CC BY 4.0"
    assert licences["redistribute"].all()
    assert databases.evidence_group("string") == "network"


def test_presets_decide_what_counts(folder: Path, tmp_path: Path) -> None:
    loose = built(folder, tmp_path / "loose", "loose")
    assert set(loose.associations("gencc")["evidence"]) == {"Strong", "Definitive", "Limited"}
    strict = built(folder, tmp_path / "strict", "strict")
    assert strict.edges()["score"].tolist() == [900.0]
    with pytest.raises(LineageMismatch):
        built(folder, tmp_path / "strict", "loose")
    again = built(folder, tmp_path / "strict", "loose", overwrite=True)
    assert again.describe("gencc")["preset"] == "loose"


def test_the_same_files_give_the_same_bytes_and_are_read_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = built(folder, tmp_path / "one"), built(folder, tmp_path / "two")
    assert first.snapshot.all_objects == second.snapshot.all_objects
    assert not first.snapshot.verify()

    def never(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(build, "read_source", never)
    assert built(folder, tmp_path / "one").dataset_id == second.dataset_id
    (folder / "mine.gmt").write_text("set one\tlink\tNEW2\n")
    with pytest.raises(LineageMismatch):
        built(folder, tmp_path / "one")


def test_a_killed_run_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_source, written = stored.write_source, []

    def dies_at_the_second(dataset: object, source: str, *others: object) -> object:
        written.append(source)
        if len(written) == 2:
            raise RuntimeError("killed")
        return write_source(dataset, source, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(stored, "write_source", dies_at_the_second)
    with pytest.raises(RuntimeError, match="killed"):
        built(folder, tmp_path / "out")
    resumed = built(folder, tmp_path / "out")
    assert written == ["string", "gencc", "gencc", "gmt-mine"]
    assert resumed.snapshot.all_objects == built(folder, tmp_path / "whole").snapshot.all_objects


def test_packed_files_are_read_as_they_are(excerpts: Path, tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    for folder in (plain, packed):
        folder.mkdir()
    for name, path in {
        "gwas-catalog-associations_ontology-annotated-full.tsv": "gwas_catalog/gwas_catalog_v1.0.1_2015.tsv",
        "ReactomePathways.gmt": "reactome/ReactomePathways.gmt",
        "genes_to_phenotype.txt": "hpo/genes_to_phenotype.legacy9col.txt",
    }.items():
        content = (excerpts / path).read_bytes()
        (plain / name.replace("-associations_ontology-annotated-full", "-associations")).write_bytes(content)
        if name.endswith(".txt"):
            (packed / f"{name}.gz").write_bytes(gzip.compress(content))
            continue
        with zipfile.ZipFile(
            packed / f"{name.removesuffix('.tsv')}.zip", "w", zipfile.ZIP_DEFLATED
        ) as archive:
            archive.writestr(name, content)
    one, other = built(plain, tmp_path / "one"), built(packed, tmp_path / "other")
    assert one.sources == other.sources == ["hpo", "gwas", "reactome"]
    for source in one.sources:
        assert len(one.associations(source)) > 0
        pd.testing.assert_frame_equal(one.associations(source), other.associations(source))


def test_all_sources_of_one_table_are_read_at_once(folder: Path, tmp_path: Path) -> None:
    databases = built(folder, tmp_path / "out")
    for name, read in ((stored.ASSOCIATIONS, databases.associations), (stored.TERMS, databases.terms)):
        every = pd.read_parquet(tmp_path / "out" / name)
        assert len(every) == sum(len(read(source)) for source in databases.sources)
