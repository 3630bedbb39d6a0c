"""The page is one file that needs no other, and no text of the content can become HTML."""

from __future__ import annotations

import json
import re

from engine.interpret.page.build import lineage_of, render, script_json
from tests.interpret.page.example import HOSTILE, example


def test_one_file_without_links() -> None:
    page = render(example())
    assert "$" not in re.sub(r"\$\{|\$/", "", page.split("<body>")[0])
    for outside in ("http://", "https://", "<link", "<img", 'src="', "@import", "url("):
        found = [
            place
            for place in re.findall(re.escape(outside) + ".{30}", page)
            if "w3.org/2000/svg" not in place
        ]
        assert not found, found
    assert page.count("<script") == page.count("</script>") == 2


def test_content_cannot_leave_its_element() -> None:
    page = render(example())
    assert HOSTILE not in page
    stored = re.search(r'<script type="application/json" id="content">(.*?)</script>', page, re.DOTALL)
    assert stored is not None
    content = json.loads(stored[1])
    assert HOSTILE in content["labels"]
    assert "<" not in stored[1]
    assert script_json("\u2028</a>") == '"\\u2028\\u003c/a\\u003e"'


def test_lineage_is_read_back() -> None:
    page = render(example())
    assert lineage_of(page) == "0123"
    assert lineage_of("<html>another page</html>") is None
