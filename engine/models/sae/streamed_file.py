"""A safetensors file written part by part: its tensors never have to be in memory whole."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

# safetensors' own names of what we write.
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


class StreamedSafetensors:
    """Context manager; `write` fills parts of the tensors, all of one dtype, in any order.

    Format: 8 bytes of header length, the header as JSON, then the tensors back to back
    (https://github.com/huggingface/safetensors). Parts that are never written are zero.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._shapes = dict(shapes)
        self._starts: dict[str, int] = {}
        header, end = {}, 0
        for name, shape in shapes.items():
            start, end = end, end + math.prod(shape) * dtype.itemsize
            self._starts[name] = start
            header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
        self._first = 8 + len(text)
        self._file = path.open("w+b")
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._file.truncate(self._first + end)
        self._file.flush()
        self._map = mmap.mmap(self._file.fileno(), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._map.flush()
        self._map.close()
        self._file.close()

    def write(
        self,
        name: str,
        part: Tensor,
        rows: tuple[int, int] | None = None,
        columns: tuple[int, int] | None = None,
    ) -> None:
        """Puts a part at its rows (first axis), its columns (last axis), or as the whole tensor."""
        shape = self._shapes[name]
        whole = torch.frombuffer(
            self._map, dtype=self._dtype, count=math.prod(shape), offset=self._first + self._starts[name]
        ).view(shape)
        if rows is not None:
            whole = whole[slice(*rows)]
        if columns is not None:
            whole = whole[..., slice(*columns)]
        whole.copy_(part.to(self._dtype))
