"""Conditions on annotations: `tissue in ('lung', 'blood') and n_genes > 500` -> which rows pass.

    condition  = clause {"or" clause}          clause = term {"and" term}
    term       = "not" term | "(" condition ")" | column comparison
    comparison = ("=" | "==" | "!=" | "<" | "<=" | ">" | ">=") value | ["not"] "in" "(" value {"," value} ")"
               | "is" ["not"] "missing"

Columns are names, in double quotes or backticks if they hold anything but letters, digits, dots and
underscores; values are numbers, true, false, or text in single quotes ('' within stands for one quote).
A missing value passes no comparison, not even `!=`; `not (...)` passes what the inside does not. Text is
never evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import InputError

Value = str | float | bool
Mask = npt.NDArray[np.bool_]

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*')
          | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])
          | (?P<quoted>"[^"]+"|`[^`]+`)
          | (?P<word>[^\W\d][\w.]*)
          | (?P<sign>==|!=|<=|>=|[=<>(),]))""",
    re.VERBOSE,
)
# Deeper ones are nobody's question, and Python's own stack ends.
_DEEPEST = 64
_KEYWORDS = {"and", "or", "not", "in", "is", "missing", "true", "false"}
_COMPARE: dict[str, Callable[..., pa.Array]] = {
    "=": pc.equal,
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


@dataclass(frozen=True)
class Comparison:
    """A column against values; operator `in` takes any number of them, `missing` none, the others one."""

    column: str
    operator: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Not:
    inner: Condition


@dataclass(frozen=True)
class AllOf:
    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    parts: tuple[Condition, ...]


Condition = Comparison | Not | AllOf | AnyOf
_Joined = type[AllOf] | type[AnyOf]


def parse(text: str) -> Condition:
    """Raises InputError that shows where the text stops making sense."""
    return _Parser(text).whole()


def columns_of(condition: Condition) -> set[str]:
    if isinstance(condition, Comparison):
        return {condition.column}
    if isinstance(condition, Not):
        return columns_of(condition.inner)
    return set().union(*map(columns_of, condition.parts))


def passing(condition: Condition, table: pa.Table) -> Mask:
    """`[N]`: rows of the table that pass. A column it lacks is missing in every row.

    Raises InputError when a column's type and a value's cannot be compared.
    """
    if isinstance(condition, Comparison):
        return _compare(condition, table)
    if isinstance(condition, Not):
        return ~passing(condition.inner, table)
    masks = [passing(part, table) for part in condition.parts]
    return _merged(masks, np.logical_and if isinstance(condition, AllOf) else np.logical_or)


def _compare(comparison: Comparison, table: pa.Table) -> Mask:
    if comparison.column not in table.column_names:
        return np.full(len(table), comparison.operator == "missing")
    column = table[comparison.column].combine_chunks()
    if comparison.operator == "missing":
        return _mask(column.is_null())
    if not pa.types.is_dictionary(column.type):
        return _hits(comparison, column)
    # Decided once per value; rows without one take the last entry of the table, which never passes.
    passes = np.append(_hits(comparison, column.dictionary), False)
    codes = column.indices.cast(pa.int32()).fill_null(len(passes) - 1)
    found: Mask = passes[codes.to_numpy(zero_copy_only=False)]
    return found


def _hits(comparison: Comparison, values: pa.Array) -> Mask:
    try:
        hits = [
            _COMPARE.get(comparison.operator, pc.equal)(values, _as_type(value, values.type))
            for value in comparison.values
        ]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise InputError(
            f"condition on {comparison.column!r}: its values are {values.type}, not comparable with "
            f"{comparison.values[0]!r} (text goes into single quotes)"
        ) from error
    return _merged([_mask(hit.fill_null(False)) for hit in hits], np.logical_or)


def _mask(values: pa.Array) -> Mask:
    found: Mask = values.to_numpy(zero_copy_only=False)
    return found


def _merged(masks: Sequence[Mask], by: np.ufunc) -> Mask:
    merged: Mask = by.reduce(masks)
    return merged


def _as_type(value: Value, dtype: pa.DataType) -> pa.Scalar:
    is_text = pa.types.is_string(dtype) or pa.types.is_large_string(dtype)
    if is_text != isinstance(value, str) or pa.types.is_boolean(dtype) != isinstance(value, bool):
        raise pa.ArrowInvalid(f"{value!r} is no {dtype}")
    # A number stays a double: 2.5 is a fair bound for a column of integers.
    return pa.scalar(value)


class _Token(NamedTuple):
    kind: str
    text: str
    start: int


class _Parser:
    """Recursive descent over the tokens of one condition."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.depth = 0
        self.tokens = self._tokens()
        self.next = 0

    def whole(self) -> Condition:
        condition = self._either()
        if self._here().kind != "end":
            self._refuse("'and', 'or' or the end")
        return condition

    def _either(self) -> Condition:
        return self._chain("or", self._both, AnyOf)

    def _both(self) -> Condition:
        return self._chain("and", self._term, AllOf)

    def _chain(
        self, word: str, part: Callable[[], Condition], joined: type[AllOf] | type[AnyOf]
    ) -> Condition:
        parts = [part()]
        while self._skip(word):
            parts.append(part())
        return joined(tuple(parts)) if len(parts) > 1 else parts[0]

    def _term(self) -> Condition:
        self.depth += 1
        if self.depth > _DEEPEST:
            self._refuse(f"at most {_DEEPEST} conditions inside each other, and here")
        found = self._inner()
        self.depth -= 1
        return found

    def _inner(self) -> Condition:
        if self._skip("not"):
            return Not(self._term())
        if self._skip("("):
            inner = self._either()
            self._expect(")")
            return inner
        return self._comparison(self._column())

    def _column(self) -> str:
        token = self._here()
        if token.kind == "quoted":
            self.next += 1
            return token.text[1:-1]
        if token.kind != "word" or token.text.lower() in _KEYWORDS:
            self._refuse("a column")
        self.next += 1
        return token.text

    def _comparison(self, column: str) -> Condition:
        if self._skip("is"):
            negated = self._skip("not")
            self._expect("missing")
            found: Condition = Comparison(column, "missing", ())
            return Not(found) if negated else found
        if self._skip("not"):
            self._expect("in")
            inside = Comparison(column, "in", self._values())
            return AllOf((Not(inside), Not(Comparison(column, "missing", ()))))
        if self._skip("in"):
            return Comparison(column, "in", self._values())
        operator = self._here()
        if operator.text not in _COMPARE:
            self._refuse("a comparison (=, !=, <, <=, >, >=, in, is)")
        self.next += 1
        return Comparison(column, operator.text, (self._value(),))

    def _values(self) -> tuple[Value, ...]:
        self._expect("(")
        values = [self._value()]
        while self._skip(","):
            values.append(self._value())
        self._expect(")")
        return tuple(values)

    def _value(self) -> Value:
        token = self._here()
        self.next += 1
        if token.kind == "text":
            return token.text[1:-1].replace("''", "'")
        if token.kind == "number":
            return float(token.text)
        if token.text.lower() in ("true", "false"):
            return token.text.lower() == "true"
        self.next -= 1
        return self._refuse("a number, true, false or text in single quotes")

    def _here(self) -> _Token:
        return self.tokens[self.next]

    def _skip(self, text: str) -> bool:
        token = self._here()
        matches = token.kind in ("word", "sign") and token.text.lower() == text
        self.next += matches
        return matches

    def _expect(self, text: str) -> None:
        if not self._skip(text):
            self._refuse(repr(text))

    def _refuse(self, expected: str) -> NoReturn:
        token = self._here()
        found = repr(token.text) if token.kind != "end" else "the end"
        raise InputError(
            f"condition {self.text!r}: expected {expected} at character {token.start + 1}, found {found}"
        )

    def _tokens(self) -> Sequence[_Token]:
        tokens, at = [], 0
        end = len(self.text.rstrip())
        while at < end:
            match = _TOKEN.match(self.text, at)
            if match is None or match.lastgroup is None:
                rest = self.text[at:].lstrip()
                raise InputError(f"condition {self.text!r}: cannot read it from {rest[:20]!r} on")
            tokens.append(_Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
            at = match.end()
        return [*tokens, _Token("end", "", end)]
