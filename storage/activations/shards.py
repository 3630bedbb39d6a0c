"""One object of an activation cache: the activations of some tokens at one hook, and where each came from.

A safetensors file (https://github.com/huggingface/safetensors) with `acts` (BF16, F16, F32 or F8_E4M3,
`[n, d]`), `cell` (U32, row in the cell store), `gene` (U32, token id of the model's vocabulary), `pos` (U16
or U32, place in the cell's token sequence) and `class` (U8, what kind of token); with F8_E4M3 also `scale`
(F32, what a token's codes are multiplied with; `storage.activations.fp8`). `acts` comes first, so row r lies
at header + r * d * itemsize. bfloat16 is native there, which no array or table format offers; activations do
not compress (1.26x at best), so nothing is compressed.

Shape legend: T tokens of a shard or batch, D width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from storage.activations.fp8 import dequantise
from storage.durable_files import Buffer

if TYPE_CHECKING:
    import torch

# The header is filled up with spaces so that rows are aligned for any dtype and for vector loads.
_ALIGNMENT = 64
_LENGTH_BYTES = 8
# The limit of the safetensors library; what claims more is another kind of file.
_LONGEST_HEADER = 100_000_000
_COLUMN_TYPES = {"U8": "u1", "U16": "<u2", "U32": "<u4", "F32": "<f4"}
PRECISIONS = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F8_E4M3": "fp8"}
FP8 = "F8_E4M3"


class TokenActivations(NamedTuple):
    """Activations of some tokens and where each came from."""

    acts: torch.Tensor
    """`[T, D]`, in the dtype stored; where fp8 is stored float32, or float8_e4m3fn with a `scale`."""
    cell: npt.NDArray[np.uint32]
    """Row of the token's cell in the cell store, `[T]`."""
    gene: npt.NDArray[np.uint32]
    """Token id in the model's vocabulary, `[T]`; `ActivationCache.genes` names it."""
    pos: npt.NDArray[np.unsignedinteger[Any]]
    """Place of the token in its cell's sequence, special tokens counted, `[T]`."""
    token_class: npt.NDArray[np.uint8]
    """0 gene, 1 cell token (`<cls>`), 2 another special token, `[T]`."""
    scale: torch.Tensor | None = None
    """Of fp8 codes that were asked for as they are, `[T]` float32: a token's activations are acts * scale."""


class StoredActivations(NamedTuple):
    """The columns of `TokenActivations` as they lie on disk: what is kept in memory while shards are
    shuffled.
    """

    rows: npt.NDArray[np.uint8]
    """Bytes of the activations, `[T, D * itemsize]`."""
    precision: str
    """A key of `PRECISIONS`."""
    scale: npt.NDArray[np.float32]
    """Of fp8 codes, `[T]`; of any other precision `[0]`."""
    cell: npt.NDArray[np.uint32]
    gene: npt.NDArray[np.uint32]
    pos: npt.NDArray[np.unsignedinteger[Any]]
    token_class: npt.NDArray[np.uint8]

    def tokens(self, decoded: bool = True) -> TokenActivations:
        """As tensors. fp8 becomes numbers here if `decoded`; else its codes and scales are handed out, for
        whoever moves them to a GPU and multiplies there.
        """
        import torch

        columns = (self.cell, self.gene, self.pos, self.token_class)
        if self.precision == FP8 and decoded:
            return TokenActivations(torch.from_numpy(dequantise(self.rows, self.scale)), *columns)
        dtype, (n, n_bytes) = _torch_types()[self.precision], self.rows.shape
        acts = torch.from_numpy(self.rows.ravel()).view(dtype).view(n, n_bytes // dtype.itemsize)
        scale = torch.from_numpy(self.scale) if self.precision == FP8 else None
        return TokenActivations(acts, *columns, scale)

    def select(self, rows: npt.NDArray[np.int64]) -> StoredActivations:
        """The given rows, in the order given."""
        return StoredActivations(
            self.rows.take(rows, axis=0),
            self.precision,
            self.scale.take(rows) if len(self.scale) else self.scale,
            self.cell.take(rows),
            self.gene.take(rows),
            self.pos.take(rows),
            self.token_class.take(rows),
        )


def shard_name(hook: str, key: str) -> str:
    return f"{hook}/{key}.safetensors"


def encode_shard(
    acts: torch.Tensor,
    cell: npt.NDArray[Any],
    gene: npt.NDArray[Any],
    pos: npt.NDArray[Any],
    token_class: npt.NDArray[Any],
    metadata: Mapping[str, str],
    scale: npt.NDArray[np.float32] | None = None,
) -> list[Buffer]:
    """One shard object; the same arguments give the same bytes. `acts` `[T, D]`, the others `[T]`.

    Its parts are views of the arguments where these lie in memory as they do on disk.

    fp8 comes with its `scale` (`fp8.quantise`). We write the header ourselves because the safetensors library
    orders metadata differently in every process.
    """
    import torch

    names = {dtype: name for name, dtype in _torch_types().items() if (name == FP8) == (scale is not None)}
    beside = (cell, gene, pos, token_class, *(() if scale is None else (scale,)))
    lengths = {len(acts), *map(len, beside)}
    if acts.ndim != 2 or acts.dtype not in names or len(lengths) != 1:
        raise ValueError(
            "acts must be [tokens, width] in bfloat16, float16, float32 or float8_e4m3fn with a scale, with "
            f"one cell, gene, pos and class each; found {tuple(acts.shape)} {acts.dtype} "
            f"{'without' if scale is None else 'with'} scale, with {', '.join(map(str, map(len, beside)))}"
        )
    wide = len(pos) > 0 and int(pos.max()) >= 1 << 16
    rows = acts.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    columns: dict[str, tuple[str, npt.NDArray[Any]]] = {
        **({} if scale is None else {"scale": ("F32", scale)}),
        "cell": ("U32", cell),
        "gene": ("U32", gene),
        "pos": ("U32" if wide else "U16", pos),
        "class": ("U8", token_class),
    }
    tensors = [("acts", names[acts.dtype], list(acts.shape), rows)]
    for name, (dtype, column) in columns.items():
        tensors.append((name, dtype, [len(column)], np.ascontiguousarray(column, dtype=_COLUMN_TYPES[dtype])))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, dtype, shape, tensor in tensors:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH_BYTES + len(text)) % _ALIGNMENT)
    length = len(text).to_bytes(_LENGTH_BYTES, "little")
    return [length, text, *(tensor.data.cast("B") for *_, tensor in tensors if tensor.size)]


def header_bytes(read: Callable[[int, int], bytes]) -> int:
    """Bytes of a safetensors file before its tensors, given a function that reads a byte range [start, stop).

    Raises ValueError when it cannot be one.
    """
    end = _LENGTH_BYTES + int.from_bytes(read(0, _LENGTH_BYTES), "little")
    if end > _LONGEST_HEADER:
        raise ValueError(f"a header of {end:,} bytes")
    return end


def read_header(read: Callable[[int, int], bytes]) -> dict[str, Any]:
    """The JSON header of a safetensors file. Raises ValueError when it cannot be one."""
    header: dict[str, Any] = json.loads(read(_LENGTH_BYTES, header_bytes(read)))
    return header


def row_bytes(header: Mapping[str, Any]) -> int:
    """Bytes of one token's activations."""
    return int(header["acts"]["shape"][1]) * _torch_types()[header["acts"]["dtype"]].itemsize


def decode_shard(content: npt.NDArray[np.uint8]) -> tuple[StoredActivations, dict[str, str]]:
    """A shard, as views of its bytes, and its metadata. Raises ValueError or KeyError when it is none."""
    header = read_header(lambda start, stop: content[start:stop].tobytes())
    origin = header_bytes(lambda start, stop: content[start:stop].tobytes())

    def column(name: str) -> npt.NDArray[Any]:
        dtype = _COLUMN_TYPES[header[name]["dtype"]]
        start = origin + header[name]["data_offsets"][0]
        return np.frombuffer(content, dtype, header[name]["shape"][0], start)

    n, precision = header["acts"]["shape"][0], header["acts"]["dtype"]
    n_bytes = row_bytes(header)
    rows = content[origin : origin + n * n_bytes].reshape(n, n_bytes)
    scale = column("scale") if precision == FP8 else np.empty(0, np.float32)
    columns = (column(name) for name in ("cell", "gene", "pos", "class"))
    return StoredActivations(rows, precision, scale, *columns), header.get("__metadata__", {})


def _torch_types() -> dict[str, torch.dtype]:
    import torch

    return {
        "BF16": torch.bfloat16,
        "F16": torch.float16,
        "F32": torch.float32,
        FP8: torch.float8_e4m3fn,
    }
