"""A chat model behind any OpenAI-compatible endpoint: one call, its retries, and a key that is never shown.

Source: the chat completions API (POST BASE/chat/completions with `response_format` of type json_schema),
which vLLM, SGLang, llama.cpp's server, Ollama and OpenAI offer alike.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from storage.errors import InputError

# Busy, restarting or behind a proxy that is: worth asking again. All other refusals would be repeated.
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
SHOWN_OF_A_REPLY = 300


class EndpointFailed(RuntimeError):
    """The endpoint kept failing. Running the same command again resumes."""


@dataclass(frozen=True)
class Secret:
    """A key that does not show in messages, logs or records."""

    value: str = field(repr=False, default="")

    def __str__(self) -> str:
        return "***" if self.value else ""

    def hide_in(self, text: str) -> str:
        return text.replace(self.value, "***") if self.value else text


@dataclass(frozen=True)
class Endpoint:
    """base: e.g. http://localhost:8000/v1. retries: calls after the first for one question. timeout: seconds
    of one call."""

    base: str
    model: str
    key: Secret = field(default_factory=Secret)
    retries: int = 5
    timeout: float = 120.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.base)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InputError(f"--endpoint {self.base}: expected an address such as http://localhost:8000/v1.")
        if "@" in parts.netloc:
            raise InputError(
                "--endpoint: an address with a user and password in it would be recorded; put the key into "
                "the environment (--key-variable)."
            )

    def ask(
        self, messages: list[dict[str, str]], schema: Mapping[str, Any], *, temperature: float, seed: int
    ) -> Any:
        """The parsed JSON answer to one chat, which the endpoint is asked to shape after `schema`.

        Raises InputError where it refuses for good (unknown model, wrong key), EndpointFailed where it cannot
        be reached or is busy for longer than the retries. None for an answer that is no JSON.
        """
        body = {
            "model": self.model,
            "messages": messages,
            "temperature": temperature,
            "seed": seed,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "captions", "strict": True, "schema": dict(schema)},
            },
        }
        return _answer(self._retried(json.dumps(body).encode()))

    def _retried(self, body: bytes, sleep: Callable[[float], None] = time.sleep) -> bytes:
        wait = FIRST_WAIT
        for attempt in range(self.retries + 1):
            try:
                return self._call(body)
            except urllib.error.HTTPError as error:
                problem, asked = self._refusal(error), _asked_to_wait(error)
            except (OSError, TimeoutError) as error:
                problem, asked = self.key.hide_in(f"cannot be reached ({error})"), None
            if attempt < self.retries:
                sleep(min(asked or wait, LONGEST_WAIT))
                wait *= 2
        raise EndpointFailed(f"{self.base}: {problem}, after {self.retries + 1} calls.")

    def _call(self, body: bytes) -> bytes:
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
            self.base.rstrip("/") + "/chat/completions", data=body, headers=self._headers(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=self.timeout) as response:  # noqa: S310
            content: bytes = response.read()
        return content

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": "syncytium"}
        return headers | ({"Authorization": f"Bearer {self.key.value}"} if self.key.value else {})

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        """What to say of a refusal that may pass. Raises InputError for one that will not."""
        said = self.key.hide_in(error.read().decode(errors="replace").strip()[:SHOWN_OF_A_REPLY])
        if error.code not in PASSING:
            raise InputError(f"{self.base} refused model {self.model!r} ({error.code}): {said}") from error
        return f"answered {error.code}: {said}"


def _asked_to_wait(error: urllib.error.HTTPError) -> float | None:
    """Seconds of a Retry-After header; None for a date or no header."""
    asked = error.headers.get("Retry-After", "") if error.headers else ""
    return float(asked) if asked.isdigit() else None


def _answer(content: bytes) -> Any:
    """The JSON inside a chat completion; None where there is none."""
    try:
        said = json.loads(content)["choices"][0]["message"]["content"]
        return json.loads(_without_fence(said))
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def _without_fence(said: str) -> str:
    """JSON out of a Markdown fence, which models without a grammar put around it."""
    text = said.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json")
    return text
