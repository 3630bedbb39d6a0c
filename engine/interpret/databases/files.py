"""Opening files as they were downloaded: plain, gzip or zip, and refused by name when they are not what they
say.

Everything streams: at most one line, or one block of `BLOCK` bytes, of a file is held.
"""

from __future__ import annotations

import fnmatch
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from storage.errors import InputError

BLOCK = 1 << 20
# Tables and XML of all sources compress 4 to 30 fold; what is made to fill a disk, about 1,000 fold.
_LARGEST_RATIO = 200
_RATIO_FROM_BYTES = 16 << 20
# The longest real line, a ClinVar variant with all its submissions, has 0.3 MB.
_LONGEST_LINE = 32 << 20
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, lzma.LZMAError, NotImplementedError)


class _Counted(io.RawIOBase):
    """Bytes of a compressed file as they come out, refused when there are absurdly many."""

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream, self._path = stream, path
        self._packed, self._out = path.stat().st_size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            block = self._stream.read(len(buffer))
        except _DAMAGED as error:
            raise InputError(
                f"{self._path}: damaged or truncated ({error}) after {self._out:,} bytes of content; "
                "download it again."
            ) from error
        self._out += len(block)
        if self._out > _RATIO_FROM_BYTES and self._out > _LARGEST_RATIO * self._packed:
            raise InputError(
                f"{self._path}: {self._packed:,} bytes unpack to more than {self._out:,}; no database "
                f"compresses {_LARGEST_RATIO}-fold. This is not the file it is named after."
            )
        buffer[: len(block)] = block
        return len(block)


@contextmanager
def open_bytes(path: Path, member: str = "*") -> Iterator[io.BufferedReader]:
    """The content of a file, unpacked. `member`: pattern of the file wanted in a zip.

    Raises InputError naming the file: absent, empty, an HTML page, damaged, truncated, or a zip bomb.
    """
    with _open_raw(path) as raw:
        magic = raw.read(4)
        raw.seek(0)
        if magic[:2] == b"\x1f\x8b":
            unpacked: Any = gzip.GzipFile(fileobj=raw)
        elif magic == b"PK\x03\x04":
            unpacked = _zip_member(raw, path, member)
        else:
            yield _checked(raw, path)
            return
        yield _checked(io.BufferedReader(_Counted(unpacked, path), BLOCK), path)


def _open_raw(path: Path) -> io.BufferedReader:
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path}: 0 bytes; download it again.")
        return io.BufferedReader(io.FileIO(path), BLOCK)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error


def _zip_member(raw: io.BufferedReader, path: Path, pattern: str) -> IO[bytes]:
    try:
        archive = zipfile.ZipFile(raw)
        names = [name for name in archive.namelist() if not name.endswith("/")]
        fitting = [name for name in names if fnmatch.fnmatch(name.rsplit("/", 1)[-1], pattern)]
        if len(fitting) != 1:
            raise InputError(
                f"{path}: holds {', '.join(names[:5]) or 'nothing'}; expected one file {pattern!r} in it."
            )
        return archive.open(fitting[0])
    except (*_DAMAGED, RuntimeError) as error:  # RuntimeError: encrypted
        raise InputError(f"{path}: not a zip file that can be read ({error}).") from error


def _checked(stream: io.BufferedReader, path: Path) -> io.BufferedReader:
    """The stream, if its first bytes are neither nothing nor a web page."""
    first = stream.peek(2048)[:2048]
    if not first.strip(b"\x00 \r\n\t\xef\xbb\xbf"):
        raise InputError(f"{path}: holds nothing; download it again.")
    if re.search(rb"<!doctype html|<html[\s>]", first[:1024].lower()):
        title = re.search(rb"<title>(.*?)</title>", first, re.IGNORECASE | re.DOTALL)
        says = f" titled {title[1].decode('utf-8', 'replace').strip()!r}" if title else ""
        raise InputError(
            f"{path}: a web page{says} that was saved under this name, not the file; download it again."
        )
    return stream


@contextmanager
def open_lines(path: Path, member: str = "*") -> Iterator[Iterator[str]]:
    """The lines of a text file without their ends. UTF-8; bytes that are not become `\\ufffd`.

    Raises what `open_bytes` raises, and InputError for a binary file.
    """
    with open_bytes(path, member) as stream:
        yield _lines(stream, path)


def _lines(stream: io.BufferedReader, path: Path) -> Iterator[str]:
    number = 0
    while line := stream.readline(_LONGEST_LINE):
        number += 1
        if b"\x00" in line or len(line) == _LONGEST_LINE:
            what = "a zero byte" if b"\x00" in line else f"more than {_LONGEST_LINE:,} bytes"
            raise InputError(f"{path}, line {number}: {what} in a line; this is not a text table.")
        text = line.decode("utf-8", "replace")
        yield (text.removeprefix("\ufeff") if number == 1 else text).rstrip("\r\n")
