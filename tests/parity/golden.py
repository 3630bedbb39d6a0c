"""Reading the golden files: padded arrays to packed tokens, count matrices to blocks."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch

from engine.models.tokens import PackedTokens, Tokeniser, Tokens


def packed_tokens(ids_CS: np.ndarray, values_CS: np.ndarray, valid_CS: np.ndarray) -> PackedTokens:
    """Right-padded cells to packed ones."""
    return PackedTokens.from_tensors(
        torch.as_tensor(ids_CS[valid_CS]),
        torch.as_tensor(values_CS[valid_CS]),
        torch.as_tensor(np.concatenate([[0], np.cumsum(valid_CS.sum(1))])),
    )


def padded(x_T: torch.Tensor, valid_CS: np.ndarray) -> np.ndarray:
    """Packed tokens (and their trailing axes) back to right-padded cells, zero at padding."""
    out = np.zeros((*valid_CS.shape, *x_T.shape[1:]), np.float32)
    out[valid_CS] = x_T.detach().numpy()
    return out


def tokenised(path: Path, tokeniser: Tokeniser, keep: str | None = None, **options: Any) -> Tokens:
    """All cells of a golden h5ad as tokens; keep: obs column that is 1 for the cells to take."""
    cells = anndata.read_h5ad(path)
    if keep in cells.obs:
        cells = cells[cells.obs[keep] == 1].copy()
    match = tokeniser.match(list(cells.var["ensembl_id"]))
    return tokeniser.tokenise(cells.X.indptr, cells.X.indices, cells.X.data, match, **options)


def table(path: Path) -> dict[Any, Any]:
    """A two-column parquet file as a dict."""
    frame = pd.read_parquet(path)
    return dict(zip(frame.iloc[:, 0].tolist(), frame.iloc[:, 1].tolist(), strict=True))


def assert_close(found: Any, expected: np.ndarray, tolerance: float) -> None:
    """Absolute difference, NaN equal to NaN."""
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
