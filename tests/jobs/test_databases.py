"""`databases` from the command line, on real excerpts of the databases."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from engine.interpret.databases import Databases, remotes
from engine.interpret.databases.remotes import Remote
from jobs.databases import main
from tests.interpret.databases.http_server import Site, serving


@pytest.fixture(scope="session")
def excerpts(shared: Path) -> Path:
    return shared / "golden" / "validation_db"


def test_all_excerpts_in_one_command(
    excerpts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    command = ["--from", str(excerpts), "--output", str(output)]
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out.splitlines()[-1])
    databases = Databases.open(output)
    assert record["counts_out"]["sources"] == len(databases.sources) == 15
    assert "variant_summary.34col.txt is not read: another file of its kind is" in captured.err
    assert {databases.evidence_group(source) for source in databases.sources} == {
        "Mendelian disease",
        "phenotype",
        "common-trait",
        "disease",
        "network",
        "pathway",
    }
    for source in databases.sources:
        terms, associations = databases.terms(source), databases.associations(source)
        assert terms["term_id"].is_unique
        assert set(associations["term_id"]) <= set(terms["term_id"])
        assert not associations.duplicated(["gene", "term_id", "evidence"]).any()
    hidden = databases.licences().query("not redistribute")["source"].tolist()
    assert hidden == ["disgenet"]
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert main([*command, "--preset", "strict"]) == 2
    assert main([*command, "--only", "gencc,gmt", "--preset", "loose", "--overwrite"]) == 0
    assert Databases.open(output).sources[0] == "gencc"
    assert len(Databases.open(output).sources) == 4


PUBLISHED = {
    "opentargets": ("open_targets/26.06__association_overall_direct.parquet", "open_targets__26.06__*"),
    "hpo": ("hpo/genes_to_phenotype.legacy9col.txt", "hpo__genes_to_phenotype.legacy9col__propagated*"),
    "hpo-diseases": ("hpo/genes_to_disease.txt", "hpo__genes_to_disease__*"),
    "gwas": ("gwas_catalog/gwas_catalog_v1.0.1_2015.tsv", "gwas_catalog__gwas_catalog_v1.0.1_2015__drop*"),
    "disgenet": ("disgenet/curated_gene_disease_associations.2015.txt", "disgenet__*"),
    "orphanet": ("orphanet/en_product6.xml", "orphanet__*"),
    "clinvar": ("clinvar/variant_summary.txt", "clinvar__variant_summary__min2star*"),
    "gencc": ("gencc/gencc-submissions.legacy.tsv", "gencc__gencc-submissions.legacy.tsv*"),
    "go": ("go/goa_human.excerpt.gaf", "go__*BP_all*"),
}


def test_published_rules_give_the_expected_pairs(excerpts: Path, tmp_path: Path) -> None:
    for path, _ in PUBLISHED.values():
        shutil.copy(excerpts / path, tmp_path)
    shutil.copy(excerpts / "hpo" / "hp.subset.obo", tmp_path)
    command = ["--from", str(tmp_path), "--output", str(tmp_path / "out"), "--preset", "published"]
    assert main(command) == 0
    databases = Databases.open(tmp_path / "out")
    assert set(databases.sources) == set(PUBLISHED)
    for source, (_, name) in PUBLISHED.items():
        (expected,) = (excerpts / "EXPECTED").glob(name)
        pairs = pd.read_csv(expected, sep="\t", dtype=str)
        # Open Targets' genes are named by Ensembl id here, beside their symbol.
        columns = ["ensembl", "disease"] if source == "opentargets" else pairs.columns[:2]
        found = databases.associations(source)
        assert set(zip(found["gene"], found["term_id"], strict=True)) == set(
            pairs[columns].itertuples(index=False, name=None)
        ), source


FILES = {
    "gencc-submissions.csv": "gencc/gencc-submissions.new.csv",
    "variant_summary.txt": "clinvar/variant_summary.txt",
    "clinvar.vcf": "clinvar/clinvar.GRCh37.vcf",
    "genes_to_phenotype.txt": "hpo/genes_to_phenotype.txt",
    "genes_to_disease.txt": "hpo/genes_to_disease.txt",
    "gwas_catalog_v1.tsv": "gwas_catalog/gwas-catalog-download-associations-alt-full.tsv",
    "curated_gene_disease_associations.tsv": "disgenet/curated_gene_disease_associations.2015.txt",
    "monarch-kg_edges.tsv": "monarch/monarch-kg_edges.subset.tsv",
    "goa_human.gaf": "go/goa_human.excerpt.gaf",
    "en_product6.xml": "orphanet/en_product6.xml",
    "ReactomePathways.gmt": "reactome/ReactomePathways.gmt",
    "h.all.gmt": "msigdb/h.all.v7.0.symbols.gmt",
    "hgnc_complete_set.txt": "hgnc/non_alt_loci_set.excerpt.txt",
}
HARMS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "web page": lambda content: b"<!DOCTYPE html><html><title>Not found</title></html>",
    "truncated": lambda content: gzip.compress(content)[: -max(20, len(content) // 20)],
    "bomb": lambda content: gzip.compress(content + b"\n" + b"x" * (24 << 20)),
}
TABLES = [name for name in FILES if not name.endswith((".xml", ".gmt", ".gaf", ".vcf"))]


def refused(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the job on a folder of which one file is wrong; what it says."""
    output = folder / "out"
    assert main(["--from", str(folder / "in"), "--output", str(output)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert name in "".join(said)
    assert not output.exists()
    return "\n".join(said)


def put(folder: Path, excerpts: Path, name: str, harm: Callable[[bytes], bytes]) -> None:
    """One harmed file, beside a whole one that sorts before it."""
    (folder / "in").mkdir()
    shutil.copy(excerpts / FILES["h.all.gmt"], folder / "in" / "sound.gmt")
    (folder / "in" / name).write_bytes(harm((excerpts / FILES[name]).read_bytes()))


@pytest.mark.parametrize("harm", [harm for harm in HARMS if harm != "bomb"])
@pytest.mark.parametrize("name", FILES)
def test_no_harmed_file_gets_through(
    excerpts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, harm: str
) -> None:
    put(tmp_path, excerpts, name, HARMS[harm])
    refused(tmp_path, name, capsys)


def test_a_bomb_does_not_get_through(
    excerpts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, excerpts, "genes_to_disease.txt", HARMS["bomb"])
    assert "unpack to more than" in refused(tmp_path, "genes_to_disease.txt", capsys)


@pytest.mark.parametrize("name", TABLES)
def test_changed_tables_are_refused(
    excerpts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    def renamed(content: bytes) -> bytes:
        first, _, rest = content.partition(b"\n")
        return first.replace(b"e", b"3").replace(b"E", b"3") + b"\n" + rest

    def separated(content: bytes) -> bytes:
        return content.replace(b"," if name.endswith(".csv") else b"\t", b";")

    def repeated(content: bytes) -> bytes:
        return content.rstrip(b"\n") + b"\n" + content.partition(b"\n")[2]

    said = {}
    for harm in (renamed, separated, repeated):
        folder = tmp_path / harm.__name__
        folder.mkdir()
        put(folder, excerpts, name, harm)
        said[harm.__name__] = refused(folder, name, capsys)
    assert "unknown layout" in said["renamed"]
    assert "separated by semicolons" in said["separated"] or "separator other than" in said["separated"]
    assert "are there twice" in said["repeated"]


def test_download_and_read_in_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(Site(pages={"/sets": b"Set\tR-HSA-1\tA\tB\n"})) as site:
        remote = Remote("reactome", "reactome/ReactomePathways.gmt", (f"{site.url}/gone", f"{site.url}/sets"))
        monkeypatch.setattr(remotes, "REMOTES", (remote,))
        command = ["--download", "--output", str(tmp_path / "out"), "--only", "reactome"]
        assert main(command) == 0
        assert "Reactome pathways: CC0 1.0" in capsys.readouterr().err
        databases = Databases.open(tmp_path / "out")
        (file,) = databases.describe("reactome")["files"]
        assert (file["url"], file["etag"]) == (f"{site.url}/sets", '"one"')
        assert (tmp_path / "out-files" / "reactome" / "ReactomePathways.gmt").exists()
        asked = len(site.asked)
        assert main(command) == 0
        assert len(site.asked) == asked


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ([], "--from is missing"),
        (["--from", "nowhere"], "no such folder"),
        (["--from", ".", "--accept-licences"], "belongs to --download"),
        (["--download", "--only", "genecards", "--from", "."], "no such source"),
        (["--download", "--only", "disgenet", "--from", "."], "DisGeNET is restricted"),
        (["--download", "--only", "kegg", "--from", "."], "KEGG pathways is restricted: academic use only"),
    ],
)
def test_flags_that_make_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], reason: str
) -> None:
    assert main([*flags, "--output", str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
