"""Terms and their parents: OBO files (HPO, GO, Mondo), and the closure over what is above a term."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine.interpret.databases.files import open_lines
from engine.interpret.databases.intake import Intake
from storage.errors import InputError


@dataclass
class Ontology:
    """Names, parents and synonymous ids. Parents that are no terms of it (files cut out of a larger one) are
    left out.
    """

    names: dict[str, str] = field(default_factory=dict)
    parents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    current: dict[str, str] = field(default_factory=dict)
    """Id merged into another -> that other id."""
    xrefs: dict[str, str] = field(default_factory=dict)
    """Id in another vocabulary -> term; "" where two terms claim it."""
    version: str = ""
    _ancestors: dict[str, frozenset[str]] = field(default_factory=dict)

    def resolve(self, term_id: str) -> str:
        """The id under which a term is kept now; "" for one that is not in the ontology."""
        term_id = self.current.get(term_id, term_id)
        return term_id if term_id in self.names else ""

    def above(self, term_id: str) -> frozenset[str]:
        """A term with all its ancestors. Raises InputError when the terms form a circle."""
        found = self._ancestors.get(term_id)
        if found is not None:
            return found
        reached, waiting = {term_id}, [term_id]
        while waiting:
            for parent in self.parents.get(waiting.pop(), ()):
                if parent == term_id:
                    raise InputError(f"ontology: {term_id} is its own ancestor; the file is damaged.")
                if parent not in reached:
                    reached.add(parent)
                    waiting.append(parent)
        self._ancestors[term_id] = frozenset(reached)
        return self._ancestors[term_id]

    def name_terms(self, intake: Intake) -> None:
        """Give the terms that associations use, and all above them, their names and parents."""
        used = {association.term_id for association in intake.associations}
        for term_id in set().union(*(self.above(term_id) for term_id in used if term_id in self.names)):
            intake.terms.pop(term_id, None)
            intake.name(term_id, self.names[term_id], self.parents[term_id])


def read_obo(path: Path, relationships: Iterable[str] = (), prefix: str = "") -> Ontology:
    """An OBO 1.2/1.4 file. Parents are `is_a` and the given relationships (`part_of`); obsolete terms are not
    terms, but what replaces them (`replaced_by`) is kept. `prefix`: only terms whose id begins with it.

    Raises InputError when the file is no OBO.
    """
    ontology = Ontology()
    upward = {"is_a", *relationships}
    stanzas = _stanzas(path)
    for key, value in next(stanzas):
        if key == "data-version":
            ontology.version = value.rsplit("releases/", 1)[-1].split("/")[0]
    for stanza in stanzas:
        _add(ontology, stanza, upward, prefix)
    if not ontology.names:
        raise InputError(f"{path}: no term in it{f' whose id begins with {prefix}' if prefix else ''}.")
    for term_id, parents in ontology.parents.items():
        ontology.parents[term_id] = tuple(parent for parent in parents if parent in ontology.names)
    return ontology


def _stanzas(path: Path) -> Iterator[list[tuple[str, str]]]:
    """(key, value) of the head, then of each [Term]; `relationship: part_of X` comes as (part_of, X)."""
    pairs: list[tuple[str, str]] = []
    wanted = True
    with open_lines(path) as lines:
        for number, line in enumerate(lines, 1):
            if number == 1 and not line.startswith(("format-version:", "[Term]")):
                raise InputError(
                    f"{path}: not an OBO file; it begins with {line[:80]!r}, expected format-version: ..."
                )
            if line.startswith("["):
                if wanted:
                    yield pairs
                pairs, wanted = [], line.strip() == "[Term]"
                continue
            key, _, value = line.partition(": ")
            if key == "relationship":
                key, _, value = value.partition(" ")
            pairs.append((key, value.split(" ! ")[0].strip()))
    if wanted:
        yield pairs


def _add(ontology: Ontology, stanza: list[tuple[str, str]], upward: set[str], prefix: str) -> None:
    single = dict(stanza)
    term_id = single.get("id", "")
    if not term_id.startswith(prefix) or not term_id:
        return
    if single.get("is_obsolete") == "true":
        if "replaced_by" in single:
            ontology.current[term_id] = single["replaced_by"]
        return
    ontology.names[term_id] = single.get("name", "")
    ontology.parents[term_id] = tuple(value.split(" ")[0] for key, value in stanza if key in upward)
    for key, value in stanza:
        if key == "alt_id":
            ontology.current[value] = term_id
        elif key == "xref":
            xref = value.split(" ")[0]
            ontology.xrefs[xref] = term_id if ontology.xrefs.get(xref, term_id) == term_id else ""
