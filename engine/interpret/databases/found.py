"""Which files of a folder belong to which source."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.interpret.databases import gmt
from engine.interpret.databases.registry import GMT, HGNC, NAMES, SOURCES
from engine.interpret.databases.source import Role, Source
from storage.errors import InputError

_PACKED = re.compile(r"\.(gz|zip)$", re.IGNORECASE)


@dataclass
class Found:
    """Sources with their files. passed_over: files that fit a role for which another was taken.
    unknown: files that fit none.
    """

    sources: list[tuple[Source, dict[str, list[Path]]]] = field(default_factory=list)
    hgnc: Path | None = None
    passed_over: list[Path] = field(default_factory=list)
    not_asked_for: list[str] = field(default_factory=list)
    unknown: list[Path] = field(default_factory=list)


def find_sources(folder: Path, only: Sequence[str] = ()) -> Found:
    """Look through a folder and all folders in it.

    Of several files that fit a role the one with the official name is taken, then the last by name, numbers
    compared as numbers (`26.06` after `25.12`). Raises InputError for a folder that is not there, an unknown
    name in `only`, one whose files are not there, or nothing at all.
    """
    require_known(only)
    if not folder.is_dir():
        raise InputError(f"--from {folder}: no such folder on this machine.")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _is_content(path, folder))
    found = Found()
    found.hgnc = _single(files, HGNC, found)
    for source in SOURCES:
        if only and source.name not in only:
            continue
        roles = _roles(folder, files, source, found)
        if not any(need in roles for need in source.needs):
            continue
        if only or source.by_default:
            found.sources.append((source, roles))
        else:
            found.not_asked_for.append(source.name)
    taken = {path for _, roles in found.sources for paths in roles.values() for path in paths}
    found.sources += _gene_sets(files, only, taken)
    _require_found(found, folder, only)
    found.unknown = [path for path in files if not _is_known(folder, path)]
    return found


def _is_known(folder: Path, path: Path) -> bool:
    every = (*(role for source in (*SOURCES, GMT) for role in source.roles), HGNC)
    return any(_is_of(folder, path, pattern) for role in every for pattern in role.patterns)


def require_known(only: Sequence[str]) -> None:
    """Raises InputError for a name that is no source's."""
    unknown = [name for name in only if name not in NAMES and not name.startswith("gmt-")]
    if unknown:
        raise InputError(f"--only {', '.join(unknown)}: no such source; there are {', '.join(NAMES)}.")


def _is_content(path: Path, folder: Path) -> bool:
    return not any(part.startswith((".", "EXPECTED")) for part in path.relative_to(folder).parts) and (
        not path.name.endswith((".part", ".part.version", ".origin.json"))
    )


def _roles(folder: Path, files: Sequence[Path], source: Source, found: Found) -> dict[str, list[Path]]:
    roles = {}
    for role in source.roles:
        if role.several:
            paths = [path for path in files if any(_fits(path, p) for p in role.patterns)]
        elif role.parts:
            paths = _parts(folder, files, role, found)
        else:
            single = _single(files, role, found)
            paths = [single] if single else []
        if paths:
            roles[role.name] = paths
    return roles


def _single(files: Sequence[Path], role: Role, found: Found) -> Path | None:
    fitting: list[Path] = []
    for pattern in role.patterns:
        more = [path for path in files if _fits(path, pattern) and path not in fitting]
        fitting += sorted(more, key=_natural, reverse=True)
    found.passed_over += [path for path in fitting[1:] if path not in found.passed_over]
    return fitting[0] if fitting else None


def _parts(folder: Path, files: Sequence[Path], role: Role, found: Found) -> list[Path]:
    """All files of one folder of the dataset's name, or one file that carries it."""
    for pattern in role.patterns:
        groups: dict[Path, list[Path]] = {}
        for path in files:
            if _is_of(folder, path, pattern):
                groups.setdefault(path.parent if "/*" in pattern else path, []).append(path)
        if groups:
            chosen, *others = sorted(groups, key=_natural, reverse=True)
            found.passed_over += [path for other in others for path in groups[other]]
            return groups[chosen]
    return []


def _is_of(folder: Path, path: Path, pattern: str) -> bool:
    """Whether a pattern fits: one with a slash the path below the folder, others the name."""
    if "/" in pattern:
        return fnmatch.fnmatchcase(f"/{path.relative_to(folder).as_posix()}", pattern)
    return _fits(path, pattern)


def _fits(path: Path, pattern: str) -> bool:
    return fnmatch.fnmatchcase(_PACKED.sub("", path.name), pattern)


def _natural(path: Path) -> list[tuple[int, str]]:
    """`26.06__x` after `25.12__x`, `v12` after `v9`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _gene_sets(
    files: Sequence[Path], only: Sequence[str], taken: set[Path]
) -> list[tuple[Source, dict[str, list[Path]]]]:
    sets: dict[str, Path] = {}
    for path in files:
        if not _fits(path, "*.gmt") or path.name.startswith("ReactomePathways"):
            continue
        name = gmt.source_name(path)
        if name in sets:
            raise InputError(f"{path}: has the name of {sets[name]}; rename one of them.")
        if not only or "gmt" in only or name in only:
            sets[name] = path
    return [
        (replace(GMT, name=name, title=f"gene sets of {path.name}"), {"sets": [path]})
        for name, path in sorted(sets.items())
        if path not in taken
    ]


def _require_found(found: Found, folder: Path, only: Sequence[str]) -> None:
    names = {source.name for source, _ in found.sources}
    for name in only:
        if name not in names and not (name == "gmt" and any(n.startswith("gmt-") for n in names)):
            source = next((each for each in SOURCES if each.name == name), GMT)
            roles = [role for role in source.roles if role.name in source.needs]
            raise InputError(
                f"--only {name}: none of its files is in {folder}: "
                f"{', '.join(role.patterns[0] for role in roles)}. Get them, or ask for another source."
            )
    if not names:
        raise InputError(
            f"--from {folder}: no file of any source is in it. Known are, among others, "
            "gencc-submissions.csv, genes_to_phenotype.txt, variant_summary.txt.gz, and any .gmt"
        )
