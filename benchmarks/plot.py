"""A line plot as SVG, readable on light and on dark ground."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 40, 48

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.title { font-weight: 600; }
.grid { stroke: #d0d7de; stroke-width: 1; }
.c0 { stroke: #0969da; fill: #0969da; }
.c1 { stroke: #bc4c00; fill: #bc4c00; }
.line { fill: none; stroke-width: 2.5; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .grid { stroke: #3d444d; }
  .c0 { stroke: #58a6ff; fill: #58a6ff; }
  .c1 { stroke: #f0883e; fill: #f0883e; }
  .line { fill: none; }
}
"""

Points = Sequence[tuple[float, float]]


def write(path: Path, title: str, x_name: str, lines: Mapping[str, Points]) -> None:
    """Write a plot of *lines*, at most two, over a logarithmic axis; the other begins at 0."""
    assert len(lines) <= 2, "a third one has no colour"
    xs = sorted({x for points in lines.values() for x, _ in points})
    step = _step(max(y for points in lines.values() for _, y in points))
    steps = math.ceil(max(y for points in lines.values() for _, y in points) / step)

    def at_x(x: float) -> float:
        span = math.log(xs[-1] / xs[0])
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(x / xs[0]) / span

    def at_y(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / (step * steps)

    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
            f' width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{escape(title)}">'
        ),
        f"<style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="22">{escape(title)}</text>',
    ]
    for number in range(steps + 1):
        y = at_y(number * step)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number * step:,.0f}</text>'
        )
    parts += [
        f'<text x="{at_x(x):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{x:,.0f}</text>'
        for x in xs
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_name)}</text>'
    )
    for number, (name, points) in enumerate(lines.items()):
        track = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in points)
        parts.append(f'<polyline class="line c{number}" points="{track}"/>')
        parts += [
            f'<circle class="c{number}" cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3.5"/>'
            for x, y in points
        ]
        x, y = points[-1]
        parts.append(f'<text x="{at_x(x) + 10:.1f}" y="{at_y(y) + 4:.1f}">{escape(name)}</text>')
    path.write_text("\n".join([*parts, "</svg>\n"]))


def _step(top: float) -> float:
    """Return a round step that makes four to eight lines up to *top*."""
    rough = top / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * each for each in (1, 2, 5, 10) if power * each >= rough)
