"""Report: text, tables, charts and pictures, written as one self-contained HTML file."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from memfast.files import atomic_write_text
from memfast.report import charts
from memfast.report.pictures import data_uri

if TYPE_CHECKING:
    from torch import Tensor

_ENVIRONMENT = Environment(loader=PackageLoader("memfast.report", "."), autoescape=True)


class Report:
    """Collects sections in order; `write` renders them. Every text is escaped."""

    def __init__(self, title: str, subtitle: str = ""):
        self.title, self.subtitle = title, subtitle
        self.sections: list[dict[str, Any]] = []

    def text(self, heading: str, *paragraphs: str) -> None:
        """A heading with paragraphs."""
        self._add("text", heading, paragraphs=paragraphs)

    def table(
        self,
        heading: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]],
        note: str = "",
        searchable: bool = False,
    ) -> None:
        """A table, sortable by a click on a column; `searchable` adds a filter above it.

        A cell may be text, a number, None, or an image tensor [3, height, width] in [0, 1].
        """
        cells = [[_cell(value) for value in row] for row in rows]
        self._add("table", heading, columns=columns, rows=cells, note=note, searchable=searchable)

    def heatmap(
        self,
        heading: str,
        values: Sequence[Sequence[charts.Number]],
        rows: Sequence[str],
        columns: Sequence[str],
        note: str = "",
        limits: tuple[charts.Number, charts.Number] | None = None,
    ) -> None:
        """A coloured grid of numbers, [rows][columns]; NaN is left blank."""
        self._chart(heading, charts.heatmap(values, rows, columns, limits), note)

    def curves(
        self,
        heading: str,
        x: Sequence[charts.Number],
        series: Mapping[str, Sequence[charts.Number]],
        x_label: str = "",
        y_label: str = "",
        note: str = "",
    ) -> None:
        """Lines over a common x."""
        self._chart(heading, charts.curves(x, series, x_label, y_label), note)

    def histogram(
        self,
        heading: str,
        series: Mapping[str, Sequence[charts.Number]],
        x_label: str = "",
        threshold: charts.Number | None = None,
        note: str = "",
    ) -> None:
        """Overlaid histograms as shares of each series, with a line at `threshold`."""
        self._chart(heading, charts.histogram(series, x_label, threshold), note)

    def pictures(
        self,
        heading: str,
        columns: Sequence[str],
        rows: Iterable[tuple[str, Sequence["Tensor | None"]]],
        note: str = "",
    ) -> None:
        """A grid: each row is a caption and one image [3, height, width] in [0, 1] a column."""
        cells = [
            (caption, [None if image is None else data_uri(image) for image in images])
            for caption, images in rows
        ]
        self._add("pictures", heading, columns=columns, rows=cells, note=note)

    def html(self) -> str:
        """The whole page."""
        template = _ENVIRONMENT.get_template("report.html")
        return template.render(title=self.title, subtitle=self.subtitle, sections=self.sections)

    def write(self, path: str | Path) -> None:
        """Write the page, atomically."""
        atomic_write_text(Path(path), self.html())

    def _chart(self, heading: str, svg: str, note: str) -> None:
        self._add("chart", heading, svg=Markup(svg), note=note)

    def _add(self, kind: str, heading: str, **content: Any) -> None:
        self.sections.append({"kind": kind, "heading": heading, **content})


def _cell(value: Any) -> dict[str, Any]:
    """How a table shows a value, and by what it sorts it."""
    if value is None:
        return {"text": "–", "sort": ""}
    if isinstance(value, bool):
        return {"text": "yes" if value else "no", "sort": int(value)}
    if isinstance(value, float):
        return {"text": f"{value:.3f}", "sort": value, "number": True}
    if isinstance(value, int):
        return {"text": f"{value:,}", "sort": value, "number": True}
    if isinstance(value, str):
        return {"text": value, "sort": value}
    return {"image": data_uri(value), "sort": ""}
