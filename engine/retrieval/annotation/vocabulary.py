"""What cells may be called: labels, and libraries of terms, from files or the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.interpret.databases.gmt import gene_sets, source_name
from storage.errors import InputError
from storage.locations import Location

_SHOWN = 3


@dataclass(frozen=True)
class Term:
    """A name to score cells with. texts: how it is put into words, the name itself where nobody says
    otherwise. genes: symbols or ids of its gene set, if it has one.
    """

    name: str
    texts: tuple[str, ...]
    genes: tuple[str, ...] = ()


Libraries = dict[str, list[Term]]


def read_labels(given: str) -> list[Term]:
    """Labels of `--labels`: a file, or terms separated by commas.

    A file is text with one label a line, or JSON: a list of labels, or label -> list of ways to say it.
    Raises InputError for fewer than two labels, and for one that is given twice.
    """
    if not _is_file(given):
        if given.endswith((".txt", ".json", ".csv", ".tsv")) or "/" in given.partition(",")[0]:
            raise InputError(f"--labels {given}: no such file, and no list of terms either.")
        return _distinct([_term(part.strip()) for part in given.split(",") if part.strip()], "--labels", 2)
    content = _text_of(given, "--labels")
    if given.endswith(".json"):
        found = _parsed(content, f"--labels {given}")
        if isinstance(found, dict):
            terms = [
                _term(name, _strings(texts, f"--labels {given}: {name}")) for name, texts in found.items()
            ]
        else:
            terms = [_term(name) for name in _strings(found, f"--labels {given}")]
    else:
        lines = (line.strip() for line in content.splitlines())
        terms = [_term(line) for line in lines if line and not line.startswith("#")]
    return _distinct(terms, f"--labels {given}", 2)


def read_libraries(paths: Sequence[str]) -> Libraries:
    """Term libraries of `--terms` files by name.

    JSON: library -> list of terms, or library -> term -> genes. GMT (local, plain, gzip or zip): one library,
    named after the file. Raises InputError naming file and line.
    """
    libraries: Libraries = {}
    for path in paths:
        if not _is_file(path):
            raise InputError(f"--terms {path}: no such file.")
        found = _from_json(_text_of(path, "--terms"), path) if path.endswith(".json") else _from_gmt(path)
        clash = sorted(set(found) & set(libraries))
        if clash:
            raise InputError(f"--terms {path}: library {clash[0]!r} was given by another file already.")
        libraries |= found
    return libraries


def _from_json(content: str, path: str) -> Libraries:
    found = _parsed(content, f"--terms {path}")
    if not isinstance(found, dict):
        raise InputError(f"--terms {path}: expected an object, library -> list of terms.")
    libraries: Libraries = {}
    for library, terms in found.items():
        where = f"--terms {path}: {library}"
        if isinstance(terms, dict):
            made = [Term(name, (name,), _strings(genes, f"{where}: {name}")) for name, genes in terms.items()]
        else:
            made = [_term(name) for name in _strings(terms, where)]
        libraries[library] = _distinct(made, where, 1)
    return libraries


def _from_gmt(path: str) -> Libraries:
    terms: dict[str, Term] = {}
    for each in gene_sets(Path(path).expanduser()):
        # Reactome's pathways may share a name; their ids differ.
        name = each.name if each.name not in terms else f"{each.name} ({each.term_id})"
        terms[name] = Term(name, (each.name,), tuple(each.genes))
    return {source_name(Path(path)).removeprefix("gmt-"): list(terms.values())}


def _term(name: str, texts: Iterable[str] = ()) -> Term:
    return Term(name, tuple(texts) or (name,))


def _strings(values: Any, where: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
        raise InputError(f"{where}: expected a list of texts.")
    return tuple(value.strip() for value in values)


def _distinct(terms: list[Term], where: str, least: int) -> list[Term]:
    names = [term.name for term in terms]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InputError(f"{where}: given twice: {', '.join(twice[:_SHOWN])}.")
    if len(names) < least:
        raise InputError(f"{where}: {len(names)} found, at least {least} needed.")
    return terms


def _is_file(path: str) -> bool:
    return Location.of(path).exists() if "://" in path else Path(path).expanduser().is_file()


def _text_of(path: str, flag: str) -> str:
    try:
        return Location.of(path).read().decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{flag} {path}: is not UTF-8 text ({error}).") from error


def _parsed(content: str, where: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON ({error}).") from error
