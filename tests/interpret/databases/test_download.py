"""Downloads from a server on this machine: resumed, mirrored, checked, and without a key in any word."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.interpret.databases import remotes, transfer
from engine.interpret.databases.download import download
from engine.interpret.databases.origins import origin_of, read_origin
from engine.interpret.databases.remotes import Remote
from engine.interpret.databases.transfer import Key, Unavailable, fetch
from storage import retries
from storage.errors import InputError
from tests.interpret.databases.http_server import Site, serving

SETS = b"".join(b"Set %d\tR-HSA-%d\tA\tB%d\n" % (number, number, number) for number in range(2000))
PRIVATE = "s3cret/key"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.001)
    with serving(Site(pages={"/sets.gmt": SETS})) as running:
        yield running


class Said(list[str]):
    def __call__(self, line: str) -> None:
        self.append(line)


def only_remotes(monkeypatch: pytest.MonkeyPatch, *listed: Remote) -> None:
    monkeypatch.setattr(remotes, "REMOTES", listed)


def reactome(*urls: str, **other: object) -> Remote:
    return Remote("reactome", "reactome/ReactomePathways.gmt", urls, **other)  # type: ignore[arg-type]


def get(tmp_path: Path, *only: str, accept: bool = False) -> Said:
    said = Said()
    download(tmp_path, only, accept_licences=accept, say=said)
    return said


def test_a_file_comes_with_its_origin(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.redirects["/latest"] = "/sets.gmt"
    only_remotes(monkeypatch, reactome(f"{site.url}/gone", f"{site.url}/latest"))
    said = get(tmp_path)
    target = tmp_path / "reactome" / "ReactomePathways.gmt"
    assert target.read_bytes() == SETS
    origin = origin_of(target)
    assert origin is not None
    assert (origin["url"], origin["final_url"]) == (f"{site.url}/latest", f"{site.url}/sets.gmt")
    assert (origin["etag"], origin["last_modified"]) == ('"one"', "Wed, 01 Jul 2026 00:00:00 GMT")
    found = read_origin(target)
    assert found is not None
    assert found["sha256"] == hashlib.sha256(SETS).hexdigest()
    assert {path.name for path in target.parent.iterdir()} == {target.name, f"{target.name}.origin.json"}
    assert any("CC0" in line for line in said)
    assert any("HTTP 404" in line for line in said)
    asked = len(site.asked)
    assert any("kept" in line for line in get(tmp_path))
    assert len(site.asked) == asked
    target.write_bytes(SETS + b"x")
    with pytest.raises(InputError, match="was changed since"):
        origin_of(target)


def test_a_dropped_connection_goes_on_where_it_stopped(tmp_path: Path, site: Site) -> None:
    site.cut["/sets.gmt"] = 1000
    arrived = fetch(f"{site.url}/sets.gmt", tmp_path / "sets.part", Key())
    assert arrived.sha256 == hashlib.sha256(SETS).hexdigest()
    ranges = [headers.get("Range") for _, headers in site.asked]
    assert ranges == [None, "bytes=1000-"]


def test_a_killed_download_goes_on_in_the_next_run(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "ATTEMPTS", 1)
    site.cut["/sets.gmt"] = 5000
    part = tmp_path / "sets.part"
    with pytest.raises(Unavailable, match=f"ended after 5,000 of {len(SETS):,} bytes"):
        fetch(f"{site.url}/sets.gmt", part, Key())
    assert part.stat().st_size == 5000
    assert fetch(f"{site.url}/sets.gmt", part, Key()).size == len(SETS)
    assert site.asked[-1][1]["Range"] == "bytes=5000-"
    # Whole already, but killed before it got its name: nothing is left to send.
    assert fetch(f"{site.url}/sets.gmt", part, Key()).size == len(SETS)
    assert part.read_bytes() == SETS


def test_large_files_show_how_far_they_are(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_WORTH_REPORTING", 1_000_000)
    site.pages["/large"] = b"x" * 3_000_000
    seen: list[tuple[int, int, str]] = []
    fetch(f"{site.url}/large", tmp_path / "part", Key(), report=lambda *step: seen.append(step))
    assert seen[-1] == (3, 3, "MB")
    assert len(seen) >= 3


def test_another_version_is_begun_anew(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "ATTEMPTS", 1)
    site.cut["/sets.gmt"] = 5000
    part = tmp_path / "sets.part"
    with pytest.raises(Unavailable):
        fetch(f"{site.url}/sets.gmt", part, Key())
    site.etag, site.pages["/sets.gmt"] = '"two"', SETS[::-1]
    assert fetch(f"{site.url}/sets.gmt", part, Key()).etag == '"two"'
    assert part.read_bytes() == SETS[::-1]


def test_keys_are_seen_by_the_server_only(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    genemap = b"# Chromosome\tMIM\n1\t2\n"
    site.pages["/final/s3cret%2Fkey/genemap2.txt"] = genemap
    site.redirects["/s3cret%2Fkey/genemap2.txt"] = "/final/s3cret%2Fkey/genemap2.txt"
    remote = Remote(
        "omim",
        "omim/genemap2.txt",
        (f"{site.url}/wrong/{{key}}/x", f"{site.url}/{{key}}/genemap2.txt"),
        key="OMIM_API_KEY",
        restricted=True,
    )
    only_remotes(monkeypatch, remote)
    monkeypatch.setenv("OMIM_API_KEY", PRIVATE)
    with pytest.raises(InputError, match=r"restricted: .*OMIM's terms.* --accept-licences"):
        get(tmp_path, "omim")
    assert not site.asked
    said = get(tmp_path, "omim", accept=True)
    assert (tmp_path / "omim" / "genemap2.txt").read_bytes() == genemap
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    for text in ("\n".join(said), written, repr(Key("OMIM_API_KEY", PRIVATE)), capsys.readouterr().err):
        assert "s3cret" not in text
    assert "<OMIM_API_KEY>" in written
    monkeypatch.delenv("OMIM_API_KEY")
    with pytest.raises(InputError, match="set OMIM_API_KEY"):
        get(tmp_path / "other", "omim", accept=True)
    # Not asked for by name, it is left out and that is said.
    only_remotes(monkeypatch, remote, reactome(f"{site.url}/sets.gmt"))
    assert any("genemap2.txt is left out" in line for line in get(tmp_path / "other"))
    assert not (tmp_path / "other" / "omim").exists()


@pytest.mark.parametrize("page", [b"<!doctype html><title>Moved</title>", b""])
def test_a_page_in_place_of_a_file_counts_as_no_answer(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch, page: bytes
) -> None:
    site.pages["/page"] = page
    only_remotes(monkeypatch, reactome(f"{site.url}/page", f"{site.url}/sets.gmt"))
    get(tmp_path)
    assert (tmp_path / "reactome" / "ReactomePathways.gmt").read_bytes() == SETS
    only_remotes(monkeypatch, reactome(f"{site.url}/page", f"{site.url}/gone"))
    with pytest.raises(Unavailable, match="no address gives it") as refusal:
        get(tmp_path / "again")
    assert f"{site.url}/page: " in str(refusal.value)
    assert not [path for path in (tmp_path / "again").rglob("*") if path.is_file()]


@pytest.mark.parametrize("sound", [True, False])
def test_the_publishers_checksum(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch, sound: bool
) -> None:
    digest = hashlib.md5(SETS if sound else b"other", usedforsecurity=False).hexdigest()
    site.pages["/sets.gmt.md5"] = f"{digest}  sets.gmt\n".encode()
    only_remotes(monkeypatch, reactome(f"{site.url}/sets.gmt", md5=f"{site.url}/sets.gmt.md5"))
    if sound:
        get(tmp_path)
        return
    with pytest.raises(Unavailable, match=f"its publisher says {digest}"):
        get(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_datasets_in_parts(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.pages["/disease/"] = (
        b'<html><a href="../">up</a><a href="part-0.parquet">0</a> <a href="part-1.parquet">1</a>'
        b'<a href="/etc/../../x.parquet">2</a><a href="_SUCCESS">ok</a></html>'
    )
    for name in ("part-0", "part-1", "x"):
        site.pages[f"/disease/{name}.parquet"] = b"PAR1" + name.encode()
    only_remotes(monkeypatch, Remote("opentargets", "ot/disease", (f"{site.url}/disease/",), parts=True))
    get(tmp_path)
    found = {path.name for path in (tmp_path / "ot" / "disease").iterdir() if path.suffix == ".parquet"}
    assert found == {"part-0.parquet", "part-1.parquet", "x.parquet"}


def test_redirects_lead_to_no_file_of_this_machine(tmp_path: Path, site: Site) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    site.redirects["/sets.gmt"] = f"file://{secret}"
    with pytest.raises(Unavailable):
        fetch(f"{site.url}/sets.gmt", tmp_path / "part", Key())
    assert not (tmp_path / "part").exists()


def test_a_key_in_a_header_follows_no_redirect(tmp_path: Path, site: Site) -> None:
    site.redirects["/moved"] = "/sets.gmt"
    fetch(f"{site.url}/moved", tmp_path / "part", Key("KEY", PRIVATE), {"Authorization": PRIVATE})
    assert [headers.get("Authorization") for _, headers in site.asked] == [PRIVATE, None]


def test_disgenet_page_by_page(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch, excerpts: Path
) -> None:
    hgnc = (excerpts / "hgnc" / "non_alt_loci_set.excerpt.txt").read_text().splitlines()
    coding = [line for line in hgnc[1:] if "\tprotein-coding gene\t" in line][:11]
    site.pages["/hgnc"] = "\n".join([hgnc[0], *coding, hgnc[2]]).encode()
    ids = [line.split("\t")[18] for line in coding]
    row = {"symbolOfGene": "A", "geneNcbiID": 1, "diseaseName": "x", "diseaseUMLSCUI": "C1", "score": 0.5}
    for number, rows in ((0, 100), (1, 20)):
        page = {"paging": {"pageSize": 100, "totalElements": 120}, "payload": [row] * rows}
        query = f"gene_ncbi_id={','.join(ids[:10])}&source=CURATED&type=disease&page_number={number}"
        site.pages[f"/gda?{query}"] = json.dumps(page).encode()
    query = f"gene_ncbi_id={ids[10]}&source=CURATED&type=disease&page_number=0"
    site.pages[f"/gda?{query}"] = json.dumps({"paging": {}, "payload": []}).encode()
    only_remotes(monkeypatch, Remote("hgnc", "hgnc/hgnc_complete_set.txt", (f"{site.url}/hgnc",)))
    api = Remote("disgenet", "disgenet", (f"{site.url}/gda",), key="DISGENET_API_KEY", restricted=True)
    monkeypatch.setattr(remotes, "DISGENET", api)
    monkeypatch.setenv("DISGENET_API_KEY", PRIVATE)
    get(tmp_path, "disgenet", accept=True)
    assert len(list((tmp_path / "disgenet").glob("*.json"))) == 3
    keys = {headers.get("Authorization") for path, headers in site.asked if path.startswith("/gda")}
    assert keys == {PRIVATE}
    asked = len(site.asked)
    get(tmp_path, "disgenet", accept=True)
    assert len(site.asked) == asked
    assert PRIVATE not in "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_every_source_that_can_be_had_is_listed() -> None:
    listed = {remote.source for remote in remotes.REMOTES}
    assert listed == {
        *("hgnc", "mondo", "opentargets", "hpo", "gwas", "monarch", "string", "omim"),
        *("orphanet", "clinvar", "gencc", "reactome", "kegg", "go"),
    }
    assert all(url.startswith(("https://", "http://")) for remote in remotes.REMOTES for url in remote.urls)
