"""One column of numbers as CELLxGENE's pages read matrices: its flatbuffers schema NetEncoding, version 1.

Matrix: n_rows, n_cols, columns [Column], col_index (a union of array types). Source: fbs/matrix.fbs of
chanzuckerberg/cellxgene 1.2.
"""

from __future__ import annotations

import json

import flatbuffers
import numpy as np
import numpy.typing as npt

# Numbers of the union's members.
_FLOAT32, _JSON = 1, 5


def one_column(values: npt.NDArray[np.float32], name: str) -> bytes:
    """`[n_obs, 1]` float32 with its column's name."""
    builder = flatbuffers.Builder(4 * len(values) + 1_024)
    numbers = _array(builder, np.asarray(values, np.float32))
    builder.StartObject(2)
    builder.PrependUint8Slot(0, _FLOAT32, 0)
    builder.PrependUOffsetTRelativeSlot(1, numbers, 0)
    column = builder.EndObject()
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(column)
    columns = builder.EndVector()
    names = _array(builder, np.frombuffer(json.dumps([name]).encode(), np.uint8))
    builder.StartObject(7)
    builder.PrependUint32Slot(0, len(values), 0)
    builder.PrependUint32Slot(1, 1, 0)
    builder.PrependUOffsetTRelativeSlot(2, columns, 0)
    builder.PrependUint8Slot(3, _JSON, 0)
    builder.PrependUOffsetTRelativeSlot(4, names, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def _array(builder: flatbuffers.Builder, values: npt.NDArray[np.generic]) -> int:
    """A table with the vector `data`."""
    vector = builder.CreateNumpyVector(values)
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, vector, 0)
    return int(builder.EndObject())
