"""Charts: drawn from the numbers given, in the page's colours, whatever the labels hold."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from memfast.report import charts
from memfast.report.charts import Estimate

HOSTILE = ["_hidden", "$x^2$", "<b>&\"'", "\x00\x1b\n", "图", "x" * 500, ""]
ONE = Estimate(0.5, 0.4, 0.6)


def texts(svg: str) -> list[str]:
    """Every text of a chart, in order."""
    root = ElementTree.fromstring(svg)
    return ["".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith("}text")]


def drawn(kind: str, names: list[str]) -> str:
    if kind == "histogram":
        return charts.histogram({name: [0.0, 1.0] for name in names}, names[0], 0.5)
    if kind == "rates":
        return charts.rates({name: ([0, 1], [0, 1]) for name in names}, "x", "y", diagonal=True)
    if kind == "curves":
        return charts.curves([0, 1], {name: [0.0, math.nan] for name in names}, names[0], "y")
    if kind == "forest":
        return charts.forest([(name, {name: ONE}) for name in names], "share")
    if kind == "scatter":
        return charts.scatter([(name, ONE, ONE) for name in names], "x", "y")
    return charts.heatmap([[0.0] * len(names)] * len(names), names, names)


KINDS = ["histogram", "rates", "curves", "forest", "scatter", "heatmap"]


@pytest.mark.parametrize("kind", KINDS)
def test_any_label_gives_valid_svg(kind: str) -> None:
    svg = drawn(kind, HOSTILE)
    shown = texts(svg)
    assert any(text.startswith("<b>&\"'") for text in shown)
    assert any(text.startswith("$x^2$") for text in shown)
    assert max(map(len, shown)) <= 60


@pytest.mark.parametrize("kind", KINDS)
def test_charts_are_small_and_in_the_pages_colours(kind: str) -> None:
    svg = drawn(kind, ["a", "b"])
    assert len(svg) < 40_000
    assert "var(--ink)" in svg
    assert not re.search("#0[1-4]0", svg)


def test_two_charts_share_no_id() -> None:
    first, second = (drawn(kind, ["a"]) for kind in ("curves", "histogram"))
    ids = [re.findall(r'\bid="([^"]+)"', svg) for svg in (first, second)]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])


def test_equal_numbers_give_equal_bytes() -> None:
    assert drawn("scatter", ["a", "b"]) == drawn("scatter", ["a", "b"])


def test_rates_end_at_zero_and_one_with_round_ticks() -> None:
    shown = texts(charts.rates({"a": ([0, 0.3, 1], [0, 0.7, 1])}, "false", "true", diagonal=True))
    assert shown.count("0.0") == shown.count("1.0") == 2
    assert {"0.2", "0.4", "0.6", "0.8", "false", "true", "guessing", "a"} <= set(shown)


def test_histogram_shows_the_reference_and_the_threshold() -> None:
    svg = charts.histogram(
        {"reference": [0, 1, 2.0], "memorized": np.ones(2)}, "s", 1.5, "reference"
    )
    assert {"reference (3)", "memorized (2)", "threshold 1.5"} <= set(texts(svg))
    assert "threshold" not in charts.histogram({"a": [1.0]}, "s", math.inf)


def test_small_heat_maps_show_their_numbers() -> None:
    svg = charts.heatmap([[0.0, 0.5], [1.0, math.nan]], ["a", "c"], ["0", "1"])
    assert [t for t in texts(svg) if re.fullmatch(r"\d\.\d\d", t)] == ["0.00", "0.50", "1.00"]


def test_empty_charts_do_not_fail() -> None:
    for svg in (
        charts.heatmap([], [], []),
        charts.curves([], {}),
        charts.histogram({"s": []}),
        charts.histogram({}),
        charts.forest([], "x"),
        charts.scatter([], "x", "y"),
        charts.rates({}, "x", "y"),
    ):
        ElementTree.fromstring(svg)
