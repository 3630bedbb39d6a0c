"""Fetching the published files: resumable, checked, from mirrors, without a key ever being written down.

A file grows as `<name>.part`; `<name>.part.version` says which version of which address it is, and the next
run asks for the rest of exactly that version. When it is whole it gets its name, and
`<name>.origin.json` says where it came from (`origins`).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urljoin

from engine.interpret.databases import remotes
from engine.interpret.databases.disgenet_pages import coding_genes, fetch_pages
from engine.interpret.databases.files import open_bytes
from engine.interpret.databases.found import require_known
from engine.interpret.databases.origins import write_origin
from engine.interpret.databases.registry import SOURCES
from engine.interpret.databases.remotes import SHARED, Remote
from engine.interpret.databases.transfer import (
    Key,
    Progress,
    Transfer,
    Unavailable,
    fetch,
    forget,
    read_small,
)
from storage import durable_files
from storage.errors import InputError

Say = Callable[[str], None]

_PART = re.compile(r'href="(?:[^"]*/)?([\w.-]+\.parquet)"')


def download(
    folder: Path,
    only: Sequence[str],
    *,
    accept_licences: bool,
    say: Say,
    progress: Callable[[str], Progress] | None = None,
) -> None:
    """Fetch the files of all sources (or of `only`) that are not in `folder` yet.

    Says the licence of each source before its first file. Restricted files are fetched only with
    `accept_licences` and, where they need one, with a key in the environment. Raises InputError when a source
    asked for cannot be had for want of either, Unavailable when no address has a file.
    """
    require_known(only)
    wanted = _wanted(only, accept_licences, say)
    for source in SOURCES:
        if any(remote.source == source.name for remote in wanted):
            say(f"{source.title}: {source.licence} ({source.licence_url})")
    for remote in wanted:
        for each in _parts(remote) if remote.parts else [remote]:
            _fetch(each, folder, say, progress and progress(each.name))
    if "disgenet" in only:
        _fetch_disgenet(folder, accept_licences, say)


def key_of(remote: Remote) -> Key:
    return Key(remote.key, os.environ.get(remote.key, "")) if remote.key else Key()


def _wanted(only: Sequence[str], accept_licences: bool, say: Say) -> list[Remote]:
    # hpo-diseases is read from a file of hpo.
    names = {name.removesuffix("-diseases") for name in only}
    wanted = []
    for remote in remotes.REMOTES:
        if remote.source in SHARED or (names and remote.source not in names):
            continue
        if not names and not remote.by_default:
            continue
        reason = _withheld(remote, accept_licences)
        if not reason:
            wanted.append(remote)
        elif names and not _has_open_file(remote.source):
            raise InputError(reason)
        else:
            say(f"{remote.name} is left out. {reason}")
    sources = {remote.source for remote in wanted}
    shared = [remote for remote in remotes.REMOTES if remote.source in SHARED]
    return [each for each in shared if _is_used(each, sources)] + wanted


def _fetch_disgenet(folder: Path, accept_licences: bool, say: Say) -> None:
    """Pages of the API, which answers only about genes it is asked for: HGNC's protein-coding ones."""
    remote = remotes.DISGENET
    reason = _withheld(remote, accept_licences)
    if reason:
        raise InputError(reason)
    hgnc = next(each for each in remotes.REMOTES if each.source == "hgnc")
    _fetch(hgnc, folder, say)
    fetch_pages(folder, remote, coding_genes(folder / hgnc.name), key_of(remote), say)


def _is_used(remote: Remote, sources: set[str]) -> bool:
    readers = SHARED[remote.source]
    return bool(sources & set(readers)) if readers else bool(sources)


def _has_open_file(source: str) -> bool:
    return any(remote.source == source and not remote.restricted for remote in remotes.REMOTES)


def _withheld(remote: Remote, accept_licences: bool) -> str:
    """Why a file may not be fetched; "" when it may."""
    source = next((each for each in SOURCES if each.name == remote.source), None)
    if remote.restricted and source is not None and not accept_licences:
        return (
            f"{source.title} is restricted: {source.licence}. Read {source.licence_url}, then say "
            "--accept-licences."
        )
    if remote.key and not os.environ.get(remote.key):
        return f"{remote.source} needs a key: register with the publisher and set {remote.key}."
    return ""


def _parts(remote: Remote) -> list[Remote]:
    """The Parquet files of a dataset, from the publisher's page of links."""
    refused = []
    for url in remote.urls:
        try:
            names = sorted(set(_PART.findall(read_small(url, key_of(remote)))))
        except Unavailable as error:
            refused.append(str(error))
            continue
        if names:
            return [
                replace(remote, name=f"{remote.name}/{name}", urls=(urljoin(url, name),), parts=False)
                for name in names
            ]
        refused.append(f"{url}: no Parquet file among its links")
    raise Unavailable(f"{remote.name}: " + "; ".join(refused))


def _fetch(remote: Remote, folder: Path, say: Say, report: Progress | None = None) -> None:
    """One file, from the first address that gives it. Raises Unavailable naming all of them."""
    target = folder / remote.name
    if target.exists():
        say(f"{target} is there; kept")
        return
    durable_files.make_directories(target.parent)
    part = target.with_name(target.name + ".part")
    refused = []
    for url in remote.urls:
        try:
            transfer = fetch(url, part, key_of(remote), report=report)
            _require_sound(remote, url, part, transfer)
        except (Unavailable, InputError) as error:
            refused.append(str(error))
            say(f"{remote.name}: {error}")
            continue
        origin = asdict(transfer) | {"downloaded": datetime.now(UTC).isoformat(timespec="seconds")}
        write_origin(target, origin)
        durable_files.take_over(part, target)
        forget(part)
        say(f"{target}: {transfer.size:,} bytes, sha256 {transfer.sha256[:16]}...")
        return
    raise Unavailable(f"{remote.name}: no address gives it. " + "; ".join(refused))


def _require_sound(remote: Remote, url: str, part: Path, transfer: Transfer) -> None:
    """Refuse a web page, nothing, and bytes that the publisher's own checksum does not fit."""
    try:
        with open_bytes(part):
            pass
    except InputError as error:
        forget(part)
        raise InputError(str(error).replace(str(part), transfer.url)) from None
    if not remote.md5 or url != remote.urls[0]:
        return
    said = re.search(r"\b[0-9a-fA-F]{32}\b", read_small(remote.md5, key_of(remote)))
    with part.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if said is None or said[0].lower() != found:
        forget(part)
        expected = said[0] if said else "no checksum"
        raise InputError(
            f"{transfer.url}: MD5 {found}, its publisher says {expected}; the transfer is damaged"
        )
