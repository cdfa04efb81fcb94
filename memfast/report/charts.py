"""Small charts as SVG text: heat maps, curves, histograms."""

import math
from collections.abc import Mapping, Sequence
from html import escape

Number = float | int
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a", "#bf3989", "#0969da")
_LOW, _HIGH = (246, 248, 250), (130, 30, 80)  # heat map ends, RGB
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640.0, 300.0, 56.0, 44.0, 12.0


def heatmap(
    values: Sequence[Sequence[Number]],
    rows: Sequence[str],
    columns: Sequence[str],
    limits: tuple[Number, Number] | None = None,
) -> str:
    """A grid of coloured cells, each with its number in a tooltip, and the colour scale below."""
    finite = [v for row in values for v in row if math.isfinite(v)]
    low, high = limits or (min(finite, default=0.0), max(finite, default=1.0))
    margin = 8 + 6.2 * max((len(r) for r in rows), default=0)
    cell, tall = max(12.0, min(44.0, 560 / max(1, len(columns)))), 20.0
    parts = []
    for i, (label, row) in enumerate(zip(rows, values, strict=True)):
        parts.append(_text(margin - 6, 18 + i * tall + 14, label, "end"))
        for j, value in enumerate(row):
            if math.isfinite(value):
                box = _rect(margin + j * cell, 18 + i * tall, cell - 1, tall - 1)
                hint = f"{label}, {columns[j]}: {value:.3g}"
                parts.append(f'{box} fill="{_shade(value, low, high)}">{_title(hint)}</rect>')
    every = math.ceil(22 / cell)
    for j in range(0, len(columns), every):
        parts.append(_text(margin + (j + 0.5) * cell, 12.0, columns[j], "middle"))
    bottom = 18 + len(rows) * tall + 12
    for k in range(40):
        value = low + (high - low) * k / 39
        parts.append(
            f'{_rect(margin + 4 * k, bottom, 4.0, 8.0)} fill="{_shade(value, low, high)}"/>'
        )
    parts.append(_text(margin - 6, bottom + 9, f"{low:.3g}", "end"))
    parts.append(_text(margin + 166, bottom + 9, f"{high:.3g}", "start"))
    return _svg(margin + len(columns) * cell + 60, bottom + 20, parts)


def curves(
    x: Sequence[Number],
    series: Mapping[str, Sequence[Number]],
    x_label: str = "",
    y_label: str = "",
) -> str:
    """Lines with points; the legend stands at the right."""
    every = [v for ys in series.values() for v in ys if math.isfinite(v)]
    scale_x, scale_y = _Scale(x, _LEFT, _WIDTH), _Scale(every, _HEIGHT - _BOTTOM, _TOP)
    parts = _axes(scale_x, scale_y, x_label, y_label)
    for index, (_name, ys) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        points = [(scale_x(a), scale_y(b)) for a, b in zip(x, ys, strict=True) if math.isfinite(b)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5" fill="{colour}"/>' for a, b in points]
    parts += _legend(list(series))
    return _svg(_WIDTH + 190, _HEIGHT, parts)


def histogram(
    series: Mapping[str, Sequence[Number]], x_label: str = "", threshold: Number | None = None
) -> str:
    """Overlaid step histograms of 40 bins, each as the share of its own series."""
    every = [v for values in series.values() for v in values if math.isfinite(v)]
    low, high = min(every, default=0.0), max(every, default=1.0)
    width = (high - low) / 40 or 1.0
    shares = {}
    for name, values in series.items():
        counts = [0] * 40
        for value in values:
            if math.isfinite(value):
                counts[min(39, int((value - low) / width))] += 1
        shares[name] = [count / max(1, len(values)) for count in counts]
    scale_x = _Scale([low, high], _LEFT, _WIDTH)
    scale_y = _Scale([0, *(v for s in shares.values() for v in s)], _HEIGHT - _BOTTOM, _TOP)
    parts = _axes(scale_x, scale_y, x_label, "share")
    for index, values in enumerate(shares.values()):
        colour = COLOURS[index % len(COLOURS)]
        for k, share in enumerate(values):
            left, right, top = (
                scale_x(low + k * width),
                scale_x(low + (k + 1) * width),
                scale_y(share),
            )
            box = _rect(left, top, right - left, scale_y(0) - top)
            parts.append(f'{box} fill="{colour}" fill-opacity="0.45"/>')
    if threshold is not None and low <= threshold <= high:
        at = scale_x(threshold)
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" class="mark"/>'
        )
        parts.append(_text(at + 4, _TOP + 10, f"threshold {threshold:.3g}", "start"))
    parts += _legend(list(shares))
    return _svg(_WIDTH + 190, _HEIGHT, parts)


class _Scale:
    """Maps data to pixels, with five ticks."""

    def __init__(self, values: Sequence[Number], start: Number, end: Number):
        self.low, self.high = min(values, default=0.0), max(values, default=1.0)
        if self.high == self.low:
            self.high = self.low + 1
        self.start, self.end = start, end

    def __call__(self, value: Number) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[Number]:
        return [self.low + (self.high - self.low) * k / 4 for k in range(5)]


def _axes(x: _Scale, y: _Scale, x_label: str, y_label: str) -> list[str]:
    parts = []
    for value in y.ticks():
        at = y(value)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{at:.1f}" y2="{at:.1f}" class="grid"/>')
        parts.append(_text(_LEFT - 6, at + 4, f"{value:.3g}", "end"))
    parts += [_text(x(v), _HEIGHT - _BOTTOM + 16, f"{v:.3g}", "middle") for v in x.ticks()]
    parts.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 8, x_label, "middle"))
    parts.append(_text(_LEFT, _TOP - 2, y_label, "start"))
    return parts


def _legend(names: Sequence[str]) -> list[str]:
    parts = []
    for index, name in enumerate(names):
        top = _TOP + 10 + 18 * index
        parts.append(
            f'{_rect(_WIDTH + 14, top, 10.0, 10.0)} fill="{COLOURS[index % len(COLOURS)]}"/>'
        )
        parts.append(_text(_WIDTH + 30, top + 9, name, "start"))
    return parts


def _shade(value: Number, low: Number, high: Number) -> str:
    share = 0.0 if high <= low else min(1.0, max(0.0, (value - low) / (high - low)))
    return "#" + "".join(
        f"{round(a + (b - a) * share):02x}" for a, b in zip(_LOW, _HIGH, strict=True)
    )


def _rect(x: Number, y: Number, width: Number, height: Number) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{height:.1f}"'


def _text(x: Number, y: Number, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>"


def _svg(width: Number, height: Number, parts: Sequence[str]) -> str:
    view = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {view} role="img">{"".join(parts)}</svg>'
