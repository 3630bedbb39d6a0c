"""Renders the page: template, style and scripts are files beside this one; the result is one file without
links."""

from __future__ import annotations

import hashlib
import html
import json
import re
from importlib import resources
from string import Template
from typing import Any

from engine.interpret.page.content import PageContent, as_json
from engine.interpret.page.searches import searches_html

SCRIPTS = (
    "content.js",
    "elements.js",
    "colours.js",
    "map.js",
    "legend.js",
    "details.js",
    "table.js",
    "curves.js",
    "page.js",
)
"""In this order: each uses names of those before it."""


def render(content: PageContent) -> str:
    """The whole page as HTML. All text is escaped: labels and gene names come from users' files."""
    return Template(_asset("template.html")).substitute(
        title=html.escape(content.title),
        lineage=html.escape(content.lineage),
        lead=html.escape(content.lead),
        footer=html.escape(content.footer),
        quality_note=html.escape(content.quality_note),
        searches=searches_html(
            content.searches, content.cells.place_C2, content.search_measures, content.search_note
        ),
        style=_asset("page.css"),
        script="\n".join(_asset(name) for name in SCRIPTS),
        content=script_json(as_json(content)),
    )


def lineage_of(page: str) -> str | None:
    """What a rendered page says it was made from; None for another file."""
    found = re.search(r'<meta name="syncytium-lineage" content="([^"]*)">', page[:4096])
    return html.unescape(found[1]) if found else None


def assets_hash() -> str:
    """Changes with the template, the style and the scripts: a page of another version is made again."""
    texts = [_asset(name) for name in ("template.html", "page.css", *SCRIPTS)]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def script_json(value: Any) -> str:
    """JSON that may stand in a script element: no character of it can end the element or start a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _asset(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
