"""Short codes order rows nearly as the whole vectors do."""

import numpy as np
import pytest

from storage.index import ShortCodes
from storage.index.short_codes import PROJECTIONS, Projection


def unit(n: int, seed: int = 0, width: int = 64) -> np.ndarray:
    """Unit vectors whose variance falls along hidden directions, around a common mean."""
    generator = np.random.default_rng(seed)
    rotation = np.linalg.qr(np.random.default_rng(7).normal(size=(width, width)))[0]
    rows = generator.normal(size=(n, width)) * np.arange(1, width + 1) ** -1.0 @ rotation + 0.2
    return (rows / np.linalg.norm(rows, axis=1)[:, None]).astype(np.float32)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_whole_codes_order_as_vectors_do(projection: Projection) -> None:
    rows, query = unit(2_000), unit(1, seed=1)[0]
    codes = ShortCodes.fit(rows, 64, projection)
    scores = codes.encode(rows).astype(np.int32) @ codes.encode_query(query).astype(np.int32)
    assert np.corrcoef(scores, rows @ query)[0, 1] > 0.995


def test_principal_directions_need_fewer_dimensions() -> None:
    rows, query = unit(2_000), unit(1, seed=1)[0]
    agreement = {}
    for projection in PROJECTIONS:
        codes = ShortCodes.fit(rows, 8, projection)
        scores = codes.encode(rows).astype(np.int32) @ codes.encode_query(query).astype(np.int32)
        agreement[projection] = np.corrcoef(scores, rows @ query)[0, 1]
    assert agreement["principal"] > 0.95
    assert agreement["leading"] < agreement["principal"] - 0.2


def test_leading_dimensions_are_the_leading_dimensions() -> None:
    rows = unit(500)
    codes = ShortCodes.fit(rows, 4, "leading")
    np.testing.assert_allclose(
        codes.encode(rows) * codes.scale_S, (rows - rows.mean(0))[:, :4], atol=float(codes.scale_S.max())
    )


def test_bytes_hold_them_and_outliers_are_cut() -> None:
    codes = ShortCodes.fit(unit(100), 4, "principal")
    again = ShortCodes.from_bytes(codes.to_bytes())
    np.testing.assert_array_equal(again.encode(unit(100)), codes.encode(unit(100)))
    assert np.abs(codes.encode(unit(100) * 1_000)).max() == 127
    assert codes.to_bytes() == again.to_bytes()


@pytest.mark.parametrize(("n", "width"), [(0, 4), (10, 0), (10, 65)])
def test_what_cannot_be_is_refused(n: int, width: int) -> None:
    with pytest.raises(ValueError, match="cannot have short codes"):
        ShortCodes.fit(unit(10)[:n], width, "principal")
