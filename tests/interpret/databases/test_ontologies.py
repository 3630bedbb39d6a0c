"""OBO files, real and wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.interpret.databases.ontologies import read_obo
from storage.errors import InputError


@pytest.mark.parametrize(
    ("name", "prefix", "n_terms", "version"),
    [
        ("hpo/hp.subset.obo", "HP:", 314, "2014-03-18"),
        ("hpo/hp.notclosed.obo", "HP:", None, "2018-03-08"),
        ("go/viral_gene_silence.obo", "GO:", None, "2019-04-17"),
        ("mondo/mondo.subset.obo", "MONDO:", 50, ""),
    ],
)
def test_real_files(excerpts: Path, name: str, prefix: str, n_terms: int | None, version: str) -> None:
    ontology = read_obo(excerpts / name, prefix=prefix)
    text = (excerpts / name).read_text()
    obsolete = text.count("is_obsolete: true")
    assert len(ontology.names) == (n_terms or text.count("[Term]") - obsolete)
    assert ontology.version == version
    # Also where the file was cut out of a larger one, every parent is a term of it.
    assert {parent for above in ontology.parents.values() for parent in above} <= ontology.names.keys()
    for term in ontology.names:
        assert term in ontology.above(term)


def test_relationships_are_parents_when_asked_for(excerpts: Path) -> None:
    path = excerpts / "go" / "viral_gene_silence.obo"
    plain, with_parts = read_obo(path), read_obo(path, ("part_of",))
    more = [term for term in plain.parents if len(with_parts.parents[term]) > len(plain.parents[term])]
    assert len(more) == len({stanza for stanza in path.read_text().split("[Term]") if "part_of GO" in stanza})
    assert more


def test_what_is_no_obo_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hp.obo"
    path.write_text('{"graphs": []}')
    with pytest.raises(InputError, match="not an OBO file"):
        read_obo(path)
    path.write_text("format-version: 1.2\n\n[Term]\nid: GO:1\nname: x\n")
    with pytest.raises(InputError, match="no term in it whose id begins with HP:"):
        read_obo(path, prefix="HP:")
