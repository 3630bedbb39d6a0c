"""More cells than the server has, for the page alone: its map, its numbers and its first annotation."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

KINDS = 12


def with_cells(page: Any, n_cells: int) -> None:
    """Whatever the page asks of single cells is answered here, for `n_cells` in twelve clouds."""
    draw = np.random.default_rng(0)
    kind_N = draw.integers(KINDS, size=n_cells)
    centre_K2 = draw.uniform(0.15, 0.85, (KINDS, 2))
    at_N2 = centre_K2[kind_N] + draw.normal(0, 0.035, (n_cells, 2)) * draw.uniform(0.5, 2, (KINDS, 1))[kind_N]
    places = (at_N2.clip(0, 1) * 65_535).astype("<u2").tobytes()
    levels = (kind_N + 1).astype(np.uint8).tobytes()
    names = {"kind": "category", "categories": [f"kind {number}" for number in range(1, KINDS + 1)]}
    answers: dict[str, tuple[str, bytes]] = {
        "**/v1/cells/layout": ("application/octet-stream", places),
        "**/v1/cells/ids": ("application/json", json.dumps(_ids(n_cells)).encode()),
        "**/v1/cells/columns/*": ("application/octet-stream", levels),
        "**/v1/cells/columns/*/categories": ("application/json", json.dumps(names).encode()),
    }
    for path, (kind, body) in answers.items():
        page.route(path, lambda route, kind=kind, body=body: route.fulfill(content_type=kind, body=body))


def _ids(n_cells: int) -> dict[str, Any]:
    return {"n_cells": n_cells, "ranges": [[0, n_cells]]}


def drawn_share(page: Any) -> float:
    """Share of the map that is not its ground."""
    return float(
        page.evaluate(
            """() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => {
              const map = document.getElementById("map"), gl = map.getContext("webgl2");
              const pixels = new Uint8Array(4 * map.width * map.height);
              gl.readPixels(0, 0, map.width, map.height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
              const colours = new Uint32Array(pixels.buffer);
              resolve(colours.filter((colour) => colour !== colours[0]).length / colours.length);
            })))"""
        )
    )
