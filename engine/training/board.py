"""What workers tell the driver of a training run. Imports nothing: the actor would wait for it."""

from __future__ import annotations


class Board:
    """A tiny actor between the workers and the driver: how far they are, and what they refuse."""

    def __init__(self) -> None:
        self._shown: tuple[int, int, str] | None = None
        self._refusal: Exception | None = None

    def show(self, done: int, total: int, unit: str) -> None:
        self._shown = (done, total, unit)

    def read(self) -> tuple[int, int, str] | None:
        return self._shown

    def refuse(self, error: Exception) -> None:
        self._refusal = self._refusal or error

    def refusal(self) -> Exception | None:
        return self._refusal
