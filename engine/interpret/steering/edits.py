"""Edits as people write them: `4711:+3,88:ablate`, in units of how strongly each feature fires."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from engine.models.interventions import FeatureEdit, Op
from storage.errors import InputError

_NUMBER = r"[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?"
_EDIT = re.compile(
    rf"(?P<feature>[0-9]+):(?:(?P<ablate>ablate)|(?P<add>[+-]{_NUMBER})|=(?P<clamp>-?{_NUMBER})"
    rf"|\*(?P<scale>-?{_NUMBER}))"
)
GRAMMAR = "FEATURE:ablate, FEATURE:+3 or FEATURE:-3 (add), FEATURE:=2 (clamp), FEATURE:*0.5 (scale)"


@dataclass(frozen=True)
class Edit:
    """One edit as asked for. amount: in units of the feature for add and clamp, a factor for scale."""

    feature: int
    op: Op
    amount: float = 0.0

    @property
    def needs_unit(self) -> bool:
        return self.op in ("add", "clamp")

    def of(self, feature: int, unit: float, token_ids: tuple[int, ...] | None = None) -> FeatureEdit:
        """The edit of a feature whose unit is that activation: its own, or a control in its place."""
        value = self.amount * unit if self.needs_unit else self.amount
        return FeatureEdit(feature, self.op, value, token_ids)

    def __str__(self) -> str:
        shown = {
            "ablate": "ablate",
            "add": f"{self.amount:+g}",
            "clamp": f"={self.amount:g}",
            "scale": f"*{self.amount:g}",
        }
        return f"{self.feature}:{shown[self.op]}"


@dataclass(frozen=True)
class Unit:
    """What amounts are multiples of: a feature's largest activation ("max"), a quantile of its activations
    above zero ("quantile"), or 1 ("absolute")."""

    kind: str = "max"
    quantile: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Unit:
        """`max`, `absolute`, or `q0.99`. Raises InputError."""
        if text in ("max", "absolute"):
            return cls(text)
        found = re.fullmatch(rf"q({_NUMBER})", text)
        if found is None or not 0 < float(found[1]) <= 1:
            raise InputError(f"--unit {text}: expected max, absolute, or a quantile such as q0.99.")
        return cls("quantile", float(found[1]))


def parse_edits(text: str, *, separately: bool = False) -> tuple[Edit, ...]:
    """Edits separated by commas. Raises InputError naming the one that cannot be read, or a feature that is
    edited twice, unless edits are made separately."""
    edits = tuple(_parse_edit(part.strip()) for part in text.split(",") if part.strip())
    if not edits:
        raise InputError(f"--edits {text!r}: no edit; write {GRAMMAR}.")
    twice = {edit.feature for edit in edits if sum(edit.feature == other.feature for other in edits) > 1}
    if twice and not separately:
        raise InputError(f"--edits: feature {min(twice)} is edited twice; say it in one edit.")
    return edits


def _parse_edit(part: str) -> Edit:
    found = _EDIT.fullmatch(part.replace(" ", ""))
    if found is None:
        raise InputError(f"--edits: cannot read {part!r}; write {GRAMMAR}, separated by commas.")
    feature = int(found["feature"])
    if found["ablate"]:
        return Edit(feature, "ablate")
    readers: dict[Op, Callable[[str], float]] = {"add": float, "clamp": float, "scale": float}
    op = next(op for op in readers if found[op] is not None)
    return Edit(feature, op, readers[op](found[op]))
