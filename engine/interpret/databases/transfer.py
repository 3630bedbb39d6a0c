"""One file over HTTP: resumed, checked, retried, and with its key taken out of every word written down."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from storage import durable_files, retries

_BLOCK = 1 << 20
_SECONDS = 60.0
_WORTH_REPORTING = 20_000_000
# A server that says it wants longer is asked again by the next run.
_LONGEST_WAIT = 600.0
_RESUMABLE = re.compile(r"bytes (\d+)-\d+/(\d+)")


# done, total, unit
Progress = Callable[[int, int, str], None]


class Unavailable(RuntimeError):
    """A file that no address gives; a later run goes on with what there is."""


@dataclass(frozen=True)
class Key:
    """A secret, and the environment variable that stands for it wherever it would be seen."""

    variable: str = ""
    value: str = field(default="", repr=False)

    def into(self, url: str) -> str:
        return url.replace("{key}", quote(self.value, safe=""))

    def redacted(self, text: str) -> str:
        """The text with the name of the variable in place of the key, however the key is written."""
        for written in {self.value, quote(self.value, safe=""), quote(self.value)} - {""}:
            text = text.replace(written, f"<{self.variable}>")
        return text.replace("{key}", f"<{self.variable}>")


@dataclass(frozen=True)
class Transfer:
    """What arrived: addresses as asked and as answered, what the server said of the version, SHA-256."""

    url: str
    final_url: str
    etag: str
    last_modified: str
    size: int
    sha256: str


def fetch(
    url: str, part: Path, key: Key, headers: dict[str, str] | None = None, report: Progress | None = None
) -> Transfer:
    """Bring one file to `part`, from where an earlier attempt at the same address and version stopped.

    Asks again, later and later, when a request fails for a reason that passes (`storage.retries`). Raises
    Unavailable with the status otherwise; neither it nor anything written holds the key.
    """
    for wait in retries.waits():
        try:
            state = _once(url, part, key, headers or {}, report)
            return _finished(state, part)
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            if wait is None or not _passes(error):
                raise Unavailable(f"{key.redacted(url)}: {key.redacted(_words(error))}") from None
            time.sleep(_asked_wait(error) or wait)
    raise AssertionError("the last wait is None")


def read_small(url: str, key: Key, limit: int = 8 << 20) -> str:
    """A short text: a checksum, a page of links. Raises Unavailable."""
    try:
        with _opener().open(_request(url, key, {}), timeout=_SECONDS) as response:
            content: bytes = response.read(limit)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise Unavailable(f"{key.redacted(url)}: {key.redacted(_words(error))}") from None
    return content.decode("utf-8", "replace")


def forget(part: Path) -> None:
    """Remove what an attempt left."""
    part.unlink(missing_ok=True)
    _state_path(part).unlink(missing_ok=True)


def _once(url: str, part: Path, key: Key, headers: dict[str, str], report: Progress | None) -> dict[str, Any]:
    """One request; returns what is known of the version. The file is whole when this returns."""
    state = _state_of(url, part, key)
    start = part.stat().st_size if state else 0
    asked = dict(headers)
    if state:
        asked |= {"Range": f"bytes={start}-", "If-Range": state["etag"] or state["last_modified"]}
    try:
        response = _opener().open(_request(url, key, asked), timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        # 416: the part already reaches to the end, or beyond a file that has become shorter.
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or state is None:
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{start}"):
            return state
        forget(part)
        return _once(url, part, key, headers, report)
    with response:
        found = _RESUMABLE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status == http.HTTPStatus.PARTIAL_CONTENT and found and int(found[1]) == start and state:
            total: int | None = int(found[2])
        else:
            start, total = 0, _length(response)
            state = _new_state(url, response, key)
            durable_files.replace(_state_path(part), json.dumps(state).encode())
        with part.open("ab" if start else "wb") as stream:
            while block := response.read(_BLOCK):
                stream.write(block)
                start += len(block)
                if report and total and total > _WORTH_REPORTING:
                    report(start // 1_000_000, total // 1_000_000, "MB")
    if total is not None and start != total:
        raise ConnectionError(f"ended after {start:,} of {total:,} bytes")
    return state


def _new_state(url: str, response: Any, key: Key) -> dict[str, Any]:
    etag = response.headers.get("ETag", "")
    return {
        "url": key.redacted(url),
        "final_url": key.redacted(response.geturl()),
        # A weak tag does not promise equal bytes, so nothing can be appended under it.
        "etag": "" if etag.startswith("W/") else etag,
        "last_modified": response.headers.get("Last-Modified", ""),
    }


def _state_of(url: str, part: Path, key: Key) -> dict[str, Any] | None:
    """What is known of the version begun, if it can be gone on with from this address."""
    if not part.exists() or not part.stat().st_size or not _state_path(part).exists():
        return None
    state: dict[str, Any] = json.loads(_state_path(part).read_text())
    same = state["url"] == key.redacted(url) and bool(state["etag"] or state["last_modified"])
    return state if same else None


def _finished(state: dict[str, Any], part: Path) -> Transfer:
    with part.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Transfer(**state, size=part.stat().st_size, sha256=digest)


def _state_path(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _length(response: Any) -> int | None:
    length = response.headers.get("Content-Length")
    return int(length) if length else None


def _request(url: str, key: Key, headers: dict[str, str]) -> urllib.request.Request:
    request = urllib.request.Request(key.into(url), headers={"User-Agent": "syncytium"})  # noqa: S310 - see _opener
    for name, value in headers.items():
        # "Unredirected": a key in a header stays with the host it was meant for.
        add = request.add_unredirected_header if name == "Authorization" else request.add_header
        add(name, value)
    return request


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and HTTPS only: no redirect leads to a file of this machine or to FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _passes(error: BaseException) -> bool:
    reason = getattr(error, "reason", None)
    return retries.passes(reason if isinstance(reason, BaseException) else error)


def _words(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    return str(getattr(error, "reason", "") or error or type(error).__name__)


def _asked_wait(error: BaseException) -> float:
    """Seconds a server that was asked too fast wants; 0 when it does not say."""
    headers = getattr(error, "headers", None) or {}
    said = headers.get("Retry-After") or headers.get("X-Rate-Limit-Retry-After-Seconds") or ""
    return min(float(said), _LONGEST_WAIT) if said.isdigit() else 0.0
