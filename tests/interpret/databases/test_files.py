"""Files that are not what their name says are refused by name; the others stream."""

from __future__ import annotations

import gzip
import io
import os
import zipfile
from pathlib import Path

import pytest

from engine.interpret.databases import files
from engine.interpret.databases.files import open_lines
from storage.errors import InputError

TEXT = b"gene\tterm\nA\tT1\nB\tT2\n"


def read(path: Path) -> list[str]:
    with open_lines(path) as lines:
        return list(lines)


def zipped(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        gzip.compress(TEXT),
        zipped(("table.tsv", TEXT)),
        b"\xef\xbb\xbf" + TEXT,
        TEXT.replace(b"\n", b"\r\n"),
    ],
    ids=["plain", "gzip", "zip", "bom", "crlf"],
)
def test_content_decides_how_a_file_is_unpacked(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.txt"
    path.write_bytes(content)
    assert read(path) == ["gene\tterm", "A\tT1", "B\tT2"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 bytes"),
        (b"\n\n  \n", "holds nothing"),
        (b"<!DOCTYPE html><html><head><title>403 Forbidden</title>", "a web page titled '403 Forbidden'"),
        (b"\n <HTML>\n<body>not found</body>", "a web page"),
        (gzip.compress(b"<html><body>moved"), "a web page"),
        (gzip.compress(TEXT * 1000)[:-20], "damaged or truncated"),
        (gzip.compress(TEXT)[:-4] + b"xxxx", "damaged or truncated"),
        (zipped(("a.tsv", TEXT))[:60], "not a zip file that can be read"),
        (zipped(("a.tsv", TEXT), ("b.tsv", TEXT)), "holds a.tsv, b.tsv; expected one file"),
        (b"gene\tterm\nA\x00B\tT\n", "line 2: a zero byte"),
    ],
    ids=[
        "empty",
        "blank",
        "html",
        "html-late",
        "html-gz",
        "truncated",
        "checksum",
        "zip",
        "two-in-zip",
        "binary",
    ],
)
def test_what_is_no_table_is_refused_by_name(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "variant_summary.txt.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=str(path)) as refusal:
        read(path)
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    "pack", [gzip.compress, lambda content: zipped(("a.tsv", content))], ids=["gzip", "zip"]
)
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, pack: object) -> None:
    path = tmp_path / "ReactomePathways.gmt.zip"
    line = b"A" * 1023 + b"\n"
    path.write_bytes(pack(line * (40 << 10)))  # type: ignore[operator]
    taken: list[int] = []
    with pytest.raises(InputError, match="unpack to more than"):
        _take(path, taken)
    allowed = max(files._RATIO_FROM_BYTES, files._LARGEST_RATIO * path.stat().st_size)
    assert 0 < sum(taken) <= allowed + files.BLOCK < 40 << 20


def _take(path: Path, taken: list[int]) -> None:
    """Note the length of every line as it comes."""
    with open_lines(path) as lines:
        taken.extend(len(line) for line in lines)


def test_a_line_without_an_end_is_not_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_LONGEST_LINE", 1000)
    path = tmp_path / "table.tsv"
    path.write_bytes(b"a" * 2000)
    with pytest.raises(InputError, match="more than 1,000 bytes"):
        read(path)


def test_lines_are_handed_out_before_the_rest_is_read(tmp_path: Path) -> None:
    # The end of the file is damaged; had it been read first, no line would come.
    path = tmp_path / "large.tsv.gz"
    lines = b"".join(b"%d\t%s\n" % (number, os.urandom(500).hex().encode()) for number in range(4000))
    path.write_bytes(gzip.compress(lines, 1)[:-100])
    taken: list[int] = []
    with pytest.raises(InputError, match="truncated"):
        _take(path, taken)
    assert len(taken) > 3000
