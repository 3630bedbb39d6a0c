"""How much a caller may send, how long that may take, and how long it may take to read what is answered."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.serving.problems import Problem
from engine.serving.settings import Limits


class Bounded:
    """ASGI middleware. A body that is too long is refused by its header or as soon as that shows, one that
    does not come to its end with 408; an answer that nobody takes is given up.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        # int() also takes digits of other scripts, and refuses thousands of them.
        if not declared.isdigit() or len(declared) > 15 or int(declared) > self.limits.body_bytes:
            await too_large(self.limits).response()(scope, receive, send)
            return
        exchange = _Exchange(receive, send, self.limits)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        finally:
            if exchange.refusal is not None and not exchange.has_started:
                await exchange.refusal.response()(scope, receive, send)


def too_large(limits: Limits) -> Problem:
    return Problem(413, "body_too_large", f"bodies of at most {limits.body_bytes:,} bytes are read")


class _Exchange:
    """One request and its answer. An application whose request is refused sees a caller that hung up, and
    gives up its work.
    """

    def __init__(self, receive: Receive, send: Send, limits: Limits) -> None:
        self._receive, self._send, self._limits = receive, send, limits
        self._until = asyncio.get_running_loop().time() + limits.body_seconds
        self._seen, self._is_read = 0, False
        self.has_started = False
        self.refusal: Problem | None = None

    async def receive(self) -> Message:
        try:
            async with asyncio.timeout_at(None if self._is_read else self._until):
                message = await self._receive()
        except TimeoutError:
            detail = f"the body did not come to its end in {self._limits.body_seconds:.0f} s"
            self.refusal = Problem(408, "too_slow", detail, {"Connection": "close"})
            return {"type": "http.disconnect"}
        self._seen += len(message.get("body", b""))
        self._is_read = not message.get("more_body", False)
        if self._seen > self._limits.body_bytes:
            self.refusal = too_large(self._limits)
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        if self.refusal is not None and not self.has_started:
            return
        self.has_started = True
        # Raises TimeoutError into the application: its streams end, and the server closes the connection.
        async with asyncio.timeout(self._limits.read_seconds):
            await self._send(message)
