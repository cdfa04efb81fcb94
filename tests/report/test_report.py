"""Reports: self-contained, escaped, and drawn from the numbers given."""

import base64
import io
import math
import re
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image

from memfast.report import Report, charts
from memfast.report.pictures import data_uri


def test_picture_round_trips() -> None:
    image = torch.arange(3 * 4 * 5).reshape(3, 4, 5) / 59
    png = base64.b64decode(data_uri(image).split(",")[1])
    decoded = np.asarray(Image.open(io.BytesIO(png)))
    np.testing.assert_array_equal(decoded, (image.permute(1, 2, 0).numpy() * 255).round())


def test_heatmap_is_valid_and_says_each_value() -> None:
    svg = charts.heatmap([[0.0, 0.5], [1.0, math.nan]], ["a<b", "c"], ["0", "1"])
    root = ElementTree.fromstring(svg)
    titles = [node.text for node in root.iter() if node.tag.endswith("title")]
    assert titles == ["a<b, 0: 0", "a<b, 1: 0.5", "c, 0: 1"]


def test_heatmap_ends_have_the_end_colours() -> None:
    cells = re.findall(r'fill="(#\w+)"><title>', charts.heatmap([[0.0, 1.0]], ["r"], ["0", "1"]))
    assert cells == ["#f6f8fa", "#821e50"]


def test_curves_place_points_by_value() -> None:
    svg = charts.curves([0, 1, 2], {"s": [0.0, 1.0, math.nan]})
    points = re.search(r'points="([^"]*)"', svg)
    assert points is not None
    (x0, y0), (x1, y1) = (map(float, p.split(",")) for p in points[1].split())
    assert x1 - x0 == (640 - 56) / 2  # halfway along an x axis that ends at 2
    assert (y0, y1) == (300 - 44, 12)


def test_histogram_shares_sum_to_one() -> None:
    svg = charts.histogram({"s": [0.0, 0.0, 1.0, 1.0]}, threshold=0.5)
    ElementTree.fromstring(svg)
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" fill="#1f6feb" fill-op', svg)]
    full = 300 - 44 - 12  # both bins hold half of all values, the largest share there is
    assert [h for h in heights if h] == [full, full]
    assert "threshold 0.5" in svg


def test_empty_charts_do_not_fail() -> None:
    for svg in (charts.heatmap([], [], []), charts.curves([], {}), charts.histogram({"s": []})):
        ElementTree.fromstring(svg)


def test_page_escapes_and_stands_alone() -> None:
    page = Report("<title>", "a & b")
    page.text("h", "<script>alert(1)</script>")
    page.table("t", ("name", "value"), [("<b>", 0.25), ("n", None), ("i", torch.zeros(3, 2, 2))])
    page.pictures("p", ("prompt", "one", "two"), [("cat", [torch.ones(3, 2, 2), None])])
    html = page.html()
    assert "<script>alert" not in html
    assert "&lt;b&gt;" in html
    assert "0.250" in html
    assert not re.search(r'(src|href)="(?!data:)', html)
