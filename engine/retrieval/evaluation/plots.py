"""Plots as SVG text, drawn in the colours of the page around them; no script, no file beside it."""

from __future__ import annotations

import html
from collections.abc import Sequence

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 460, 260, 46, 34, 12


def bars(rows: Sequence[tuple[str, float, tuple[float, float] | None]], title: str) -> str:
    """Horizontal bars of values in [0, 1], the first row in the accent colour, with intervals where known."""
    step, left, right = 24, 132, 60
    height = step * len(rows) + 28
    span = WIDTH - left - right
    parts = [_open(WIDTH, height, title)]
    for number in range(5):
        x = left + span * number / 4
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="4" x2="{x:.1f}" y2="{height - 22}"/>')
        parts.append(_text(x, height - 8, f"{number / 4:g}", "middle"))
    for number, (name, value, interval) in enumerate(rows):
        y = 8 + step * number
        kind = "ours" if number == 0 else "theirs"
        length = max(span * min(max(value, 0.0), 1.0), 1.0)
        parts.append(_text(left - 8, y + 12, name, "end"))
        parts.append(f'<rect class="{kind}" x="{left}" y="{y}" width="{length:.1f}" height="15" rx="3"/>')
        if interval is not None:
            low, high = (left + span * min(max(edge, 0.0), 1.0) for edge in interval)
            parts.append(f'<path class="whisker" d="M{low:.1f} {y + 7.5}H{high:.1f}"/>')
        end = max(left + length, left + span * interval[1] if interval else 0)
        parts.append(_text(min(end + 6, WIDTH - right + 8), y + 12, f"{value:.3f}", "start"))
    return "".join([*parts, "</svg>"])


def reliability(rows: Sequence[dict[str, float]], title: str) -> str:
    """Accuracy over confidence; a dot's area is its share of the cells, the diagonal is perfect."""
    total = sum(row["n_cells"] for row in rows) or 1
    parts = [_open(WIDTH, HEIGHT, title), *_axes("confidence", "share right")]
    parts.append(f'<path class="ideal" d="M{_x(0)} {_y(0)}L{_x(1)} {_y(1)}"/>')
    points = [(row["confidence"], row["accuracy"]) for row in rows]
    line = "L".join(f"{_x(x):.1f} {_y(y):.1f}" for x, y in points)
    parts.append(f'<path class="line" d="M{line}"/>' if points else "")
    for row in rows:
        radius = 3 + 12 * (row["n_cells"] / total) ** 0.5
        said = f"{row['n_cells']:,.0f} cells: confidence {row['confidence']:.2f}, right {row['accuracy']:.2f}"
        parts.append(
            f'<circle class="dot" cx="{_x(row["confidence"]):.1f}" cy="{_y(row["accuracy"]):.1f}" '
            f'r="{radius:.1f}"><title>{said}</title></circle>'
        )
    return "".join([*parts, "</svg>"])


def curves(series: Sequence[tuple[str, Sequence[tuple[float, float]]]], title: str) -> str:
    """Recall (0 to 1) over k; k are equally far apart. The first series in the accent colour."""
    ks = [point[0] for point in series[0][1]]
    parts = [_open(WIDTH, HEIGHT, title), *_axes("k", "recall", [f"{k:g}" for k in ks])]
    for number, (name, points) in enumerate(series):
        places = [(_x(at / max(len(ks) - 1, 1)), _y(value)) for at, (_, value) in enumerate(points)]
        kind = "line" if number == 0 else f"line other{number}"
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path class="{kind}" d="M{path}"><title>{html.escape(name)}</title></path>')
        parts += [
            f'<circle class="{"dot" if number == 0 else "dot faint"}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
            for x, y in places
        ]
        # Lines may end at one point; their names stand below one another.
        y = _y(0.36 - 0.09 * number)
        parts.append(f'<path class="{kind}" d="M{_x(0.66):.1f} {y - 4:.1f}h20"/>')
        parts.append(_text(_x(0.66) + 26, y, name, "start"))
    return "".join([*parts, "</svg>"])


def _axes(x_label: str, y_label: str, x_ticks: Sequence[str] | None = None) -> list[str]:
    ticks = x_ticks or ["0", "0.25", "0.5", "0.75", "1"]
    parts = []
    for number in range(5):
        y = _y(number / 4)
        parts.append(f'<line class="grid" x1="{_x(0)}" y1="{y:.1f}" x2="{_x(1)}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{number / 4:g}", "end"))
    for number, tick in enumerate(ticks):
        parts.append(_text(_x(number / max(len(ticks) - 1, 1)), HEIGHT - BOTTOM + 14, tick, "middle"))
    parts.append(_text((_x(0) + _x(1)) / 2, HEIGHT - 4, x_label, "middle"))
    middle = HEIGHT / 2
    parts.append(
        f'<text x="11" y="{middle}" text-anchor="middle" transform="rotate(-90 11 {middle})">{y_label}</text>'
    )
    return parts


def _x(share: float) -> float:
    return LEFT + (WIDTH - LEFT - 16) * share


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share


def _open(width: int, height: int, title: str) -> str:
    said = html.escape(title)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{said}"><title>{said}</title>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
