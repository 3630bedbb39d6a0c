"""Who may ask and how often: hashed API keys with scopes, a token bucket each."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.serving.problems import Problem
from storage.errors import InputError

Permission = Literal["read", "chat", "admin"]
PREFIX = "syn_"
# Buckets kept; a caller that is forgotten begins with a full one.
_CALLERS = 10_000

SECURITY_HEADERS = {
    # The page needs nothing from elsewhere, and nothing of it may be framed.
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


@dataclass(frozen=True)
class Key:
    """A key's name, what it may do and the sha256 of its text; the text itself is nowhere."""

    name: str
    permissions: frozenset[str]
    sha256: str

    @property
    def line(self) -> str:
        return f"{self.name} {','.join(sorted(self.permissions))} {self.sha256}"


def new_key(name: str, permissions: Iterable[str]) -> tuple[str, Key]:
    """A fresh key, to be shown once, and what is kept of it."""
    text = PREFIX + secrets.token_urlsafe(32)
    return text, Key(name, frozenset(permissions), _hash(text))


def read_keys(path: str | Path) -> list[Key]:
    """Lines `name permissions sha256`. Raises InputError that names the line."""
    keys = []
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split()
        permissions = frozenset(parts[1].split(",")) if len(parts) == 3 else frozenset()
        unknown = permissions - set(get_args(Permission))
        if len(parts) != 3 or unknown or len(parts[2]) != 64:
            raise InputError(
                f"{path}, line {number}: expected a name, permissions ({', '.join(get_args(Permission))}) "
                "and a sha256; make lines with serve --new-api-key"
            )
        keys.append(Key(parts[0], permissions, parts[2]))
    if not keys:
        raise InputError(f"{path}: holds no key, so nobody could ask anything")
    return keys


class Access:
    """Lets a request in or raises Problem: 401, 403 or 429."""

    def __init__(self, keys: list[Key] | None, requests_per_minute: int) -> None:
        self._keys = keys
        self._rate = requests_per_minute / 60
        self._burst = max(10.0, requests_per_minute / 10)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admit(self, request: Request, permission: Permission) -> str:
        """The caller's name."""
        caller = self._caller(request, permission)
        now = time.monotonic()
        tokens, since = self._buckets.pop(caller, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        self._buckets[caller] = (max(tokens - 1, 0.0) if tokens >= 1 else tokens, now)
        if len(self._buckets) > _CALLERS:
            self._buckets.popitem(last=False)
        if tokens < 1:
            wait = max(1, round((1 - tokens) / self._rate))
            raise Problem(
                429, "rate_limited", f"too many requests; wait {wait} s", {"Retry-After": str(wait)}
            )
        return caller

    def _caller(self, request: Request, permission: Permission) -> str:
        if self._keys is None:
            return request.client.host if request.client else "unknown"
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not text:
            raise Problem(401, "no_api_key", "send Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})
        asked, found = _hash(text.strip()), None
        for key in self._keys:
            # Every key is compared, in constant time each.
            if hmac.compare_digest(key.sha256, asked):
                found = key
        if found is None:
            raise Problem(401, "invalid_api_key", "this key is not known", {"WWW-Authenticate": "Bearer"})
        if permission not in found.permissions and "admin" not in found.permissions:
            raise Problem(403, "not_allowed", f"key {found.name!r} lacks the permission {permission!r}")
        return f"key {found.name}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Headers:
    """ASGI middleware: security headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._headers = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        await self.app(scope, receive, sending if scope["type"] == "http" else send)
