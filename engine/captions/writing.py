"""Captions written from metadata by a language model: what it is asked, and what counts as an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.captions.endpoint import Endpoint, EndpointFailed

Metadata = Mapping[str, str]

INSTRUCTIONS = (
    "You describe samples of single cells for a search engine. For every numbered record of metadata write "
    "one English sentence that states what the cells are, and where known their tissue, disease, condition "
    "and the donor's stage of life. State only what the record says: add no fact, no gene and no "
    "interpretation. Spell out abbreviations that are beyond doubt. Leave out identifiers of donors, batches "
    'and files. Answer with JSON of the form {"captions": [{"id": 0, "caption": "..."}]}, one entry for '
    "every record."
)
LEAST_CHARACTERS, MOST_CHARACTERS = 10, 500
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "captions": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"id": {"type": "integer"}, "caption": {"type": "string"}},
                "required": ["id", "caption"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["captions"],
    "additionalProperties": False,
}


def write_captions(
    endpoint: Endpoint,
    records: Sequence[Metadata],
    *,
    together: int = 8,
    temperature: float = 0.0,
    seed: int = 0,
    instructions: str = INSTRUCTIONS,
) -> list[str]:
    """One caption for each record, in order.

    `together` records are sent in one call. Of an answer the good captions are kept and the others are asked
    again, at last one by one, as often as the endpoint's retries allow. Raises EndpointFailed naming a record
    that never got a good caption, and what `Endpoint.ask` raises.
    """
    found: dict[int, str] = {}
    for attempt in range(endpoint.retries + 1):
        missing = [number for number in range(len(records)) if number not in found]
        if not missing:
            break
        # A record that spoils the answers of its neighbours is asked alone.
        size = together if attempt == 0 else max(1, together >> attempt)
        for start in range(0, len(missing), size):
            part = missing[start : start + size]
            messages = _messages(instructions, [(number, records[number]) for number in part])
            # Another seed: asked the same question again, a model gives the same answer.
            answer = endpoint.ask(messages, SCHEMA, temperature=temperature, seed=seed + attempt)
            found |= good_captions(answer, part)
    missing = [number for number in range(len(records)) if number not in found]
    if missing:
        raise EndpointFailed(
            f"{endpoint.base}: no usable caption for {dict(records[missing[0]])} and {len(missing) - 1} more "
            f"records, after {endpoint.retries + 1} attempts."
        )
    return [found[number] for number in range(len(records))]


def good_captions(answer: Any, asked: Sequence[int]) -> dict[int, str]:
    """The captions of an answer that can be used, by number: of the shape of SCHEMA, asked for, given once,
    of 10 to 500 characters on one line.
    """
    entries = answer.get("captions") if isinstance(answer, dict) else None
    found: dict[int, str] = {}
    twice: set[int] = set()
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict) or set(entry) != {"id", "caption"}:
            continue
        number, caption = entry["id"], entry["caption"]
        if type(number) is not int or number not in asked or not isinstance(caption, str):
            continue
        twice |= {number} & found.keys()
        text = " ".join(caption.split())
        if LEAST_CHARACTERS <= len(text) <= MOST_CHARACTERS:
            found[number] = text
    return {number: text for number, text in found.items() if number not in twice}


def _messages(instructions: str, records: Sequence[tuple[int, Metadata]]) -> list[dict[str, str]]:
    asked = [{"id": number, **metadata} for number, metadata in records]
    return [
        {"role": "system", "content": instructions},
        {"role": "user", "content": json.dumps({"records": asked}, ensure_ascii=False)},
    ]
