"""Charts as inline SVG, drawn by matplotlib in the page's own colours, so that they turn dark
with it. matplotlib is imported when the first chart is drawn."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from html import escape
from io import StringIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Number = float | int
BINS = 40
WIDTH = 5.2  # inches; the page scales it
WORDS = 34  # characters of a label, at most
INK, GRID, MARK = "#010101", "#020202", "#030303"
SERIES = tuple(f"#04040{k}" for k in range(1, 8))
_CSS = {INK: "--ink", GRID: "--line", MARK: "--bad"} | {
    colour: f"--series-{k}" for k, colour in enumerate(SERIES, 1)
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "memfast",
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "font.size": 10,
    "figure.facecolor": "none",
}


class Estimate(NamedTuple):
    """A figure with the ends of its interval."""

    value: Number
    low: Number
    high: Number


def histogram(
    series: Mapping[str, ArrayLike],
    x_label: str = "",
    threshold: Number | None = None,
    reference: str | None = None,
) -> str:
    """Shares of each series over 40 bins; the one named `reference` is filled, the others lines.

    The axis shows the middle 99.8 % of all values and the threshold; what lies beyond counts in
    the outermost bins.
    """
    known = {name: _finite(values) for name, values in series.items()}
    every = np.concatenate([np.empty(0), *known.values()])
    low, high = np.quantile(every, [0.001, 0.999]) if len(every) else (0.0, 1.0)
    if threshold is not None and math.isfinite(threshold):
        low, high = min(low, threshold), max(high, threshold)
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)

    def draw(axes: Any) -> None:
        for colour, (name, values) in zip(_colours(known), known.items(), strict=True):
            share = np.histogram(values.clip(edges[0], edges[-1]), edges)[0] / max(1, len(values))
            filled = name == reference
            axes.stairs(
                share,
                edges,
                fill=filled,
                color=INK if filled else colour,
                alpha=0.25 if filled else 1,
                linewidth=1.6,
                label=_label(f"{name} ({len(values):,})"),
            )
        if threshold is not None and math.isfinite(threshold):
            axes.axvline(threshold, color=MARK, linestyle="--", label=f"threshold {threshold:.3g}")
        axes.set(xlabel=_label(x_label, 60), ylabel="share of the prompts")
        axes.set_ylim(bottom=0)
        _legend(axes)

    return _svg(draw, f"histogram of {x_label}")


def rates(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    x_label: str,
    y_label: str,
    diagonal: bool = False,
) -> str:
    """Steps through (x, y) pairs on the unit square; `diagonal`: what guessing would give."""

    def draw(axes: Any) -> None:
        if diagonal:
            axes.plot([0, 1], [0, 1], color=GRID, linestyle="--", label="guessing")
        for colour, (name, (x, y)) in zip(_colours(series), series.items(), strict=True):
            axes.plot(x, y, color=colour, label=_label(name), linewidth=1.8)
        axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
        _legend(axes)

    return _svg(draw, f"{y_label} over {x_label}", height=4.6)


def curves(
    x: Sequence[Number],
    series: Mapping[str, Sequence[Number]],
    x_label: str = "",
    y_label: str = "",
) -> str:
    """Lines with points over a common x."""

    def draw(axes: Any) -> None:
        for colour, (name, values) in zip(_colours(series), series.items(), strict=True):
            axes.plot(x, values, color=colour, label=_label(name), marker="o", markersize=3)
        axes.set(xlabel=_label(x_label, 60), ylabel=_label(y_label, 60))
        _whole_ticks(axes.xaxis, x)
        _legend(axes)

    return _svg(draw, f"{y_label} over {x_label}")


def forest(rows: Sequence[tuple[str, Mapping[str, Estimate]]], x_label: str) -> str:
    """Rates with their intervals on [0, 1], one line a row; a row may hold several kinds."""
    kinds = list(dict.fromkeys(kind for _, found in rows for kind in found))

    def draw(axes: Any) -> None:
        for number, kind in enumerate(kinds):
            shift = 0.5 * ((number + 0.5) / len(kinds) - 0.5)
            places = [k + shift for k, (_, found) in enumerate(rows) if kind in found]
            shown = [found[kind] for _, found in rows if kind in found]
            axes.errorbar(
                [e.value for e in shown],
                places,
                xerr=_bars(shown),
                fmt="os^D"[number % 4],
                color=SERIES[number % len(SERIES)],
                capsize=2,
                markersize=4.5,
                label=_label(kind),
            )
        axes.set_yticks(range(len(rows)), [_label(name) for name, _ in rows])
        axes.set(xlabel=_label(x_label, 60), xlim=(-0.02, 1.02), ylim=(len(rows) - 0.4, -0.6))
        axes.grid(axis="y", visible=False)
        if len(kinds) > 1:
            _legend(axes)

    return _svg(draw, x_label, height=1.1 + 0.32 * len(rows) + 0.2 * (len(kinds) > 1))


def scatter(points: Sequence[tuple[str, Estimate, Estimate]], x_label: str, y_label: str) -> str:
    """Named points with the intervals of both their figures."""

    def draw(axes: Any) -> None:
        for number, (name, x, y) in enumerate(points):
            axes.errorbar(
                [x.value],
                [y.value],
                xerr=_bars([x]),
                yerr=_bars([y]),
                fmt="os^Dv<>"[number // len(SERIES) % 7],
                color=SERIES[number % len(SERIES)],
                elinewidth=0.8,
                markersize=6,
                label=_label(name),
            )
        axes.set(xlabel=_label(x_label, 60), ylabel=_label(y_label, 60))
        _legend(axes)

    return _svg(draw, f"{y_label} over {x_label}", height=3.8)


def heatmap(
    values: Sequence[Sequence[Number]],
    rows: Sequence[str],
    columns: Sequence[str],
    limits: tuple[Number, Number] | None = None,
) -> str:
    """A coloured grid of numbers, [rows][columns]; NaN is left blank. Small grids show them."""
    table = np.ma.masked_invalid(np.array(values, float).reshape(len(rows), len(columns)))

    def draw(axes: Any) -> None:
        if not table.count():
            return
        low, high = limits or (table.min(), table.max())
        image = axes.imshow(table, "viridis", vmin=low, vmax=high, aspect="auto")
        image.set_interpolation("none")
        axes.set_xticks(*_every(columns, 12))
        axes.set_yticks(*_every(rows, 40), fontsize=8)
        axes.grid(visible=False)
        bar = axes.figure.colorbar(image, ax=axes)
        bar.outline.set_visible(False)
        if max(len(rows), len(columns)) <= 10:
            for (row, column), value in np.ndenumerate(table.filled(np.nan)):
                bright = not high > low or (value - low) / (high - low) > 0.6
                tint = "#0a0a0a" if bright else "#f5f5f5"
                if math.isfinite(value):
                    axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=tint)

    return _svg(draw, "heat map", height=1.2 + 0.26 * max(4, min(40, len(rows))))


def _svg(draw: Callable[[Any], None], title: str, height: float = 3.2) -> str:
    """What `draw` draws, as an <svg> element whose ids and colours are the page's own."""
    import logging
    import warnings

    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    text = StringIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that its own fonts lack: the browser's have them
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.add_subplot())
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(text, metadata=nothing)
    drawn = text.getvalue()
    box = re.search(r'viewBox="[^"]*"', drawn)
    body = drawn.partition("<svg")[2].partition(">")[2]
    mark = sha256(drawn.encode()).hexdigest()[:8]
    body = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{mark}-", body)
    body = re.sub("|".join(_CSS), lambda colour: f"var({_CSS[colour[0]]})", body)
    body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 inherit", body)
    head = f'role="img" aria-label="{escape(title)}" {box[0] if box else ""}'
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f"<svg {namespaces} {head}>{body.strip()}"


def _finite(values: ArrayLike) -> "np.ndarray[Any, np.dtype[np.float64]]":
    array = np.asarray(values, float)
    return array[np.isfinite(array)]


def _bars(shown: Sequence[Estimate]) -> list[list[Number]]:
    """Lengths below and above, as matplotlib has them."""
    return [
        [max(0, e.value - e.low) for e in shown],
        [max(0, e.high - e.value) for e in shown],
    ]


def _colours(series: Mapping[str, Any]) -> list[str]:
    return [SERIES[k % len(SERIES)] for k in range(len(series))]


def _label(text: str, most: int = WORDS) -> str:
    """A label that matplotlib and XML take: on one line, not too long, no leading underscore."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    short = plain if len(plain) <= most else plain[: most - 1] + "…"
    return f"\u200b{short}" if short.startswith("_") else short


def _legend(axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.figure.legend(handles, labels, loc="outside upper left", ncols=2)


def _every(names: Sequence[str], most: int) -> tuple[list[int], list[str]]:
    """At most so many places and their labels, evenly chosen."""
    places = list(range(0, len(names), math.ceil(len(names) / most) or 1))
    return places, [_label(names[place]) for place in places]


def _whole_ticks(axis: Any, values: Sequence[Number]) -> None:
    if all(isinstance(value, int) for value in values):
        from matplotlib.ticker import MaxNLocator

        axis.set_major_locator(MaxNLocator(integer=True))
