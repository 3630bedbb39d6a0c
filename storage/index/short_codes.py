"""Short codes: a few bytes of a vector that order vectors by inner product nearly as well as the whole does.

A vector is centred, projected to a few dimensions and rounded to int8, each dimension on its own scale.
The projection is either the leading dimensions (what Matryoshka training packs the meaning into; Kusupati et
al. 2022) or the principal directions of a sample, for vectors nobody trained to be cut. Centring and scales
cost a search nothing: the query takes them up, and what is the same for all rows does not change their order.

Shape legend: N rows, D width, S width of the codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Projection = Literal["principal", "leading"]
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)

Float32 = npt.NDArray[np.float32]
Int8 = npt.NDArray[np.int8]

_LARGEST = 127


@dataclass(frozen=True)
class ShortCodes:
    """projection_DS: orthonormal columns. mean_D: what is subtracted first. scale_S: value of one step."""

    projection_DS: Float32
    mean_D: Float32
    scale_S: Float32

    @classmethod
    def fit(cls, sample_ND: Float32, width: int, projection: Projection) -> ShortCodes:
        """From a sample of unit vectors; the same sample gives the same codes. Raises ValueError when the
        vectors have fewer dimensions than the codes, or the sample is empty.
        """
        n, full = sample_ND.shape
        if not n or not 1 <= width <= full:
            raise ValueError(f"{n} vectors of {full} dimensions cannot have short codes of {width}")
        mean_D = sample_ND.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred_ND = sample_ND - mean_D
        if projection == "leading":
            directions_DS = np.eye(full, width, dtype=np.float32)
        else:
            _, vectors_DD = np.linalg.eigh((centred_ND.T @ centred_ND).astype(np.float64))
            directions_DS = np.ascontiguousarray(vectors_DD[:, ::-1][:, :width], dtype=np.float32)
        reach_S = np.abs(centred_ND @ directions_DS).max(axis=0)
        return cls(directions_DS, mean_D, (np.maximum(reach_S, 1e-12) / _LARGEST).astype(np.float32))

    @property
    def width(self) -> int:
        return int(self.scale_S.size)

    def encode(self, x_ND: Float32) -> Int8:
        """Codes of unit vectors, `[N, S]`; what reaches further than the sample did is cut."""
        steps_NS = ((x_ND - self.mean_D) @ self.projection_DS) / self.scale_S
        return np.clip(np.rint(steps_NS), -_LARGEST, _LARGEST).astype(np.int8)

    def encode_query(self, q_D: Float32) -> Int8:
        """Code of a query, `[S]`: its inner product with a row's code (in int32) orders rows as the inner
        product of the vectors does, up to rounding and what the projection leaves out.
        """
        weights_S = (q_D @ self.projection_DS) * self.scale_S
        largest = float(np.abs(weights_S).max())
        code_S: Int8 = np.rint(weights_S * (_LARGEST / max(largest, 1e-30))).astype(np.int8)
        return code_S

    def to_bytes(self) -> bytes:
        from safetensors.numpy import save

        return bytes(save({"projection": self.projection_DS, "mean": self.mean_D, "scale": self.scale_S}))

    @classmethod
    def from_bytes(cls, content: bytes) -> ShortCodes:
        from safetensors.numpy import load

        found = load(content)
        return cls(found["projection"], found["mean"], found["scale"])
