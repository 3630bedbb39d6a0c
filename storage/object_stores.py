"""Objects in any fsspec store, whole or absent, through trouble that passes.

The counterpart of `storage.durable_files` for what is not a local disk: a write is one PUT (a completed
multipart upload is atomic as well), create-if-absent is a conditional PUT, and requests that fail for a
reason that passes are sent again (`storage.retries`).
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from storage import retries
from storage.durable_files import Buffer, Content, in_parts
from storage.errors import DamagedDataset, InputError, StoreUnavailable
from storage.retries import until_it_works

# `MemoryFileSystem` tests for existence and stores in two steps; threads need a lock around both.
_MEMORY_LOCK = threading.Lock()

# Times the S3 driver sends a request before it reports trouble. Once, or waiting would happen in three places
# and the lost answer to a conditional PUT would stay hidden; a few times where one call of the driver is many
# requests (pages of a listing, objects of a prefix), which we can only repeat as a whole.
_S3_REQUESTS, _S3_REQUESTS_OF_MANY = 1, 4

# The field of an S3 object's own metadata with the call of `create` that made it.
_MAKER = "syncytium-maker"


def read(url: str) -> bytes:
    """The whole object. Raises FileNotFoundError."""
    fs, key = _store(url)
    return until_it_works(lambda: bytes(fs.cat_file(key)), f"reading {url}")


def read_ranges(url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Byte ranges `[start, stop)`. Raises FileNotFoundError, DamagedDataset for one behind the end."""
    fs, key = _store(url)
    parts: dict[int, bytes] = {}

    def read_missing() -> list[bytes]:
        # Only what is missing: of many ranges one fails at almost every attempt on a store that throttles.
        missing = [place for place in range(len(ranges)) if place not in parts]
        starts, stops = [ranges[place][0] for place in missing], [ranges[place][1] for place in missing]
        answers = fs.cat_ranges([key] * len(missing), starts, stops, on_error="return") if missing else []
        failures = []
        for place, answer in zip(missing, answers, strict=True):
            if isinstance(answer, BaseException):
                failures.append(answer)
            else:
                parts[place] = answer
        if failures:
            raise min(failures, key=retries.passes)  # what stays wrong decides, whatever else failed too
        return [parts[place] for place in range(len(ranges))]

    try:
        return until_it_works(read_missing, f"reading {url}")
    except (FileNotFoundError, StoreUnavailable):
        raise
    except OSError as error:
        found, expected = size(url), max(stop for _, stop in ranges)
        if found < expected:  # on S3 a range that begins behind the end is an error of its own
            raise DamagedDataset(
                f"{url}: {found} bytes, {expected} expected; the object is truncated"
            ) from error
        raise


def put(url: str, content: Content) -> None:
    """Write the object whole, replacing what is there."""
    fs, key = _store(url)
    whole = b"".join(in_parts(content))
    until_it_works(lambda: fs.pipe_file(key, whole), f"writing {url}")


def put_file(url: str, source: Path) -> None:
    """The same from a local file."""
    fs, key = _store(url)
    until_it_works(lambda: fs.put_file(str(source), key), f"writing {url}")


def create(url: str, content: Buffer) -> bool:
    """Write the object if none has that name, else False.

    After an answer that was lost the object may be there by our own request: on S3 it carries the name of the
    call that made it; elsewhere one that holds our own content then counts as ours.
    """
    maker = uuid.uuid4().hex
    for wait in retries.waits():
        try:
            # The HTTP client of the S3 driver sends a PUT whose answer was lost again without a word.
            return _create_once(url, bytes(content), maker) or (_is_s3(url) and _made_by(url, maker))
        except Exception as error:
            if not retries.passes(error):
                raise
            failure = error
        if exists(url):
            return _made_by(url, maker) if _is_s3(url) else read(url) == bytes(content)
        if wait is None:
            break
        time.sleep(wait)
    raise retries.unavailable(f"creating {url}", failure) from failure


def get_file(url: str, target: Path) -> None:
    """Copy the object into a local file. Raises FileNotFoundError."""
    fs, key = _store(url)
    until_it_works(lambda: fs.get_file(key, str(target)), f"reading {url}")


def exists(url: str) -> bool:
    """Whether there is such an object or prefix."""
    fs, key = _store(url, requests=_S3_REQUESTS_OF_MANY)
    # Not `fs.exists`: in most drivers any error, also one that passes, makes it say no.
    try:
        until_it_works(lambda: fs.info(key), f"looking for {url}")
    except FileNotFoundError:
        return False
    return True


def size(url: str) -> int:
    """Bytes of the object. Raises FileNotFoundError."""
    fs, key = _store(url)
    return int(until_it_works(lambda: fs.info(key), f"looking for {url}")["size"])


def remove(url: str) -> None:
    """Remove the object if it is there."""
    fs, key = _store(url)
    with contextlib.suppress(FileNotFoundError):
        until_it_works(lambda: fs.rm_file(key), f"removing {url}")


def remove_all(url: str) -> None:
    """Remove every object under a prefix."""
    fs, key = _store(url, requests=_S3_REQUESTS_OF_MANY)

    def remove_what_is_left() -> None:
        with contextlib.suppress(FileNotFoundError):
            fs.rm(key, recursive=True)

    until_it_works(remove_what_is_left, f"removing {url}")


def walk(url: str) -> Iterator[tuple[str, int, float]]:
    """(name below the prefix, bytes, seconds since the epoch when it was written) of every object."""
    fs, top = _store(url, requests=_S3_REQUESTS_OF_MANY)
    for key, entry in until_it_works(lambda: fs.find(top, detail=True), f"listing {url}").items():
        if entry["type"] == "directory":
            # s3fs names the prefix itself when its first object appears between two of its requests.
            continue
        yield key[len(top) :].lstrip("/"), int(entry["size"]), _written_at(fs, key, entry)


def _create_once(url: str, content: bytes, maker: str) -> bool:
    fs, key = _store(url)
    named = {"Metadata": {_MAKER: maker}} if _is_s3(url) else {}
    # Only the memory store needs the lock, and its writers are threads of one process.
    lock = _MEMORY_LOCK if url.startswith("memory://") else contextlib.nullcontext()
    try:
        with lock:
            fs.pipe_file(key, content, mode="create", **named)
    except FileExistsError:
        return False
    except OSError as error:
        # Some stores answer a failed condition with a general error.
        if not retries.passes(error) and exists(url):
            return False
        raise
    return True


def _made_by(url: str, maker: str) -> bool:
    fs, key = _store(url)
    found = until_it_works(lambda: fs.metadata(key, refresh=True), f"looking for the maker of {url}")
    return bool(found.get(_MAKER) == maker)


def _is_s3(url: str) -> bool:
    return url.startswith(("s3://", "s3a://"))


def _store(url: str, requests: int = _S3_REQUESTS) -> tuple[Any, str]:
    """The driver of a URL and its key there."""
    # Listings must not be cached: other processes write into the same prefix.
    options: dict[str, Any] = {"use_listings_cache": False}
    if _is_s3(url):
        options["config_kwargs"] = {"retries": {"mode": "standard", "total_max_attempts": requests}}
    fs, key = fsspec.core.url_to_fs(url, **options)
    if isinstance(fs, LocalFileSystem):
        raise InputError(f"{url}: give a local directory as a plain path")
    if _is_s3(url):
        fs.retries = 1
    return fs, key.rstrip("/")


def _written_at(fs: Any, key: str, entry: dict[str, Any]) -> float:
    # Each fsspec store has its own word for it: s3, gcs, azure/hdfs, memory.
    for field in ("LastModified", "updated", "last_modified", "mtime", "created"):
        if field in entry:
            when = entry[field]
            break
    else:
        when = fs.modified(key)
    if isinstance(when, str):
        when = datetime.fromisoformat(when)
    return when.timestamp() if isinstance(when, datetime) else float(when)
