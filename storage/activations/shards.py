"""One object of an activation cache: the activations of some tokens at one hook, and where each came from.

A safetensors file (https://github.com/huggingface/safetensors) with `acts` (BF16, F16 or F32, `[n, d]`),
`cell` (U32, row in the cell store), `gene` (U32, token id of the model's vocabulary) and `pos` (U16 or U32,
place in the cell's token sequence). `acts` comes first, so row r lies at header + r * d * itemsize. bfloat16
is native there, which no array or table format offers; activations do not compress (1.26x at best), so
nothing is compressed.

Shape legend: T tokens of a shard or batch, D width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

# The header is filled up with spaces so that rows are aligned for any dtype and for vector loads.
_ALIGNMENT = 64
_LENGTH_BYTES = 8
# The limit of the safetensors library; what claims more is another kind of file.
_LONGEST_HEADER = 100_000_000
PRECISIONS = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}


class TokenActivations(NamedTuple):
    """Activations of some tokens and where each came from."""

    acts: torch.Tensor
    """`[T, D]`, in the dtype stored."""
    cell: npt.NDArray[np.uint32]
    """Row of the token's cell in the cell store, `[T]`."""
    gene: npt.NDArray[np.uint32]
    """Token id in the model's vocabulary, `[T]`; `ActivationCache.genes` names it."""
    pos: npt.NDArray[np.unsignedinteger[Any]]
    """Place of the token in its cell's sequence, special tokens counted, `[T]`."""


def shard_name(hook: str, key: str) -> str:
    return f"{hook}/{key}.safetensors"


def encode_shard(
    acts: torch.Tensor,
    cell: npt.NDArray[Any],
    gene: npt.NDArray[Any],
    pos: npt.NDArray[Any],
    metadata: Mapping[str, str],
) -> bytes:
    """One shard object; the same arguments give the same bytes. `acts` `[T, D]`, the others `[T]`.

    We write the header ourselves because the safetensors library orders metadata differently in every
    process.
    """
    import torch

    names = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
    if acts.ndim != 2 or acts.dtype not in names or not len(acts) == len(cell) == len(gene) == len(pos):
        raise ValueError(
            "acts must be [tokens, width] in bfloat16, float16 or float32 with one cell, gene and pos each; "
            f"found {tuple(acts.shape)} {acts.dtype} with {len(cell)}, {len(gene)}, {len(pos)}"
        )
    wide = len(pos) > 0 and int(pos.max()) >= 1 << 16
    rows = acts.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    tensors = [
        ("acts", names[acts.dtype], list(acts.shape), rows),
        ("cell", "U32", [len(cell)], np.ascontiguousarray(cell, dtype="<u4")),
        ("gene", "U32", [len(gene)], np.ascontiguousarray(gene, dtype="<u4")),
        (
            "pos",
            "U32" if wide else "U16",
            [len(pos)],
            np.ascontiguousarray(pos, dtype="<u4" if wide else "<u2"),
        ),
    ]
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, dtype, shape, tensor in tensors:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH_BYTES + len(text)) % _ALIGNMENT)
    length = len(text).to_bytes(_LENGTH_BYTES, "little")
    # NumPy arrays are buffers: joining copies each once, straight into the object.
    return b"".join([length, text, *(tensor.data for *_, tensor in tensors if tensor.size)])


def read_header(read: Callable[[int, int], bytes]) -> dict[str, Any]:
    """The JSON header of a safetensors file, given a function that reads its byte range [start, stop).

    Raises ValueError when it cannot be one.
    """
    end = _LENGTH_BYTES + int.from_bytes(read(0, _LENGTH_BYTES), "little")
    if end > _LONGEST_HEADER:
        raise ValueError(f"a header of {end:,} bytes")
    header: dict[str, Any] = json.loads(read(_LENGTH_BYTES, end))
    return header


def decode_shard(content: bytes) -> tuple[TokenActivations, dict[str, str]]:
    """A shard and its metadata. Raises ValueError or KeyError when it is none."""
    import torch

    dtypes = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    header = read_header(lambda start, stop: content[start:stop])
    buffer = bytearray(content)  # writable, as tensors that share it must be
    origin = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")

    def column(name: str) -> npt.NDArray[Any]:
        dtype = {"U16": "<u2", "U32": "<u4"}[header[name]["dtype"]]
        start = origin + header[name]["data_offsets"][0]
        return np.frombuffer(buffer, dtype, header[name]["shape"][0], start)

    n, width = header["acts"]["shape"]
    acts = torch.empty(0, width, dtype=dtypes[header["acts"]["dtype"]])
    if n:
        acts = torch.frombuffer(buffer, dtype=acts.dtype, count=n * width, offset=origin).view(n, width)
    tokens = TokenActivations(acts, column("cell"), column("gene"), column("pos"))
    return tokens, header.get("__metadata__", {})
