"""Report: a verdict, three figures, then tables, charts and pictures, as one HTML file."""

import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from memfast.files import atomic_write_text
from memfast.report.pictures import ROOM, Embedder

Tone = Literal["good", "bad", "unsure", "none"]
LONGEST = 240  # characters of a cell or caption that are shown
ROWS, CARDS = 50, 24  # on one page of a table, of a gallery


class Report:
    """Collects a page's parts in order; `write` renders them. Every text is escaped.

    folder: where the pictures lie that a gallery names, and where the page is written.
    """

    def __init__(self, title: str, subtitle: str = "", folder: Path = Path()) -> None:
        self.title, self.subtitle = title, subtitle
        self.banner: dict[str, Any] = {}
        self.figures: list[dict[str, str]] = []
        self.sections: list[dict[str, Any]] = []
        self._embed = Embedder(folder, ROOM)

    def verdict(self, tone: Tone, words: str, *lines: str) -> None:
        """What is to be read in five seconds: words on a colour, and what qualifies them."""
        self.banner = {"tone": tone, "words": words, "lines": lines}

    def figure(self, label: str, value: Any, note: str = "") -> None:
        """One of the (three) figures below the verdict."""
        shown = value if isinstance(value, str) else _cell(value)["text"]
        self.figures.append({"label": label, "value": shown, "note": note})

    def text(self, heading: str, *paragraphs: str) -> None:
        """A heading with paragraphs."""
        self._add("text", heading, paragraphs=paragraphs)

    def facts(self, heading: str, rows: Iterable[tuple[str, Any]], note: str = "") -> None:
        """Names with their values; a value in a tuple is shown as code."""
        shown = [(name, v if isinstance(v, tuple) else _cell(v)["text"]) for name, v in rows]
        self._add("facts", heading, rows=shown, note=note)

    def table(
        self,
        heading: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]],
        note: str = "",
    ) -> None:
        """A table, sortable by a column's button; a long one gets a filter and pages.

        A cell may be text, a number, or None.
        """
        cells = [[_cell(value) for value in row] for row in rows]
        heads = [
            {"name": name, "number": any(row[k]["number"] for row in cells)}
            for k, name in enumerate(columns)
        ]
        pages = ROWS if len(cells) > ROWS // 2 else 0
        self._add("table", heading, columns=heads, rows=cells, note=note, page=pages)

    def charts(
        self, heading: str, charts: Mapping[str, str | tuple[str, str]], note: str = ""
    ) -> None:
        """Charts side by side: {title: SVG of `memfast.report.charts`, or (SVG, note)}."""
        drawn = []
        for title, chart in charts.items():
            svg, words = chart if isinstance(chart, tuple) else (chart, "")
            drawn.append({"title": title, "svg": Markup(svg), "note": words})
        if drawn:
            self._add("charts", heading, charts=drawn, note=note)

    def gallery(self, heading: str, cards: Sequence[Mapping[str, Any]], note: str = "") -> None:
        """A grid of captions with their pictures, as `pictures.read_album` gives them."""
        shown = [
            {"caption": short(card["caption"]), "shots": [self._shot(s) for s in card["shots"]]}
            for card in cards
        ]
        most = max((len(card["shots"]) for card in shown), default=1)
        pages = CARDS if len(shown) > CARDS // 2 else 0
        width = min(1.7 + 5.9 * most, 42)
        self._add("gallery", heading, cards=shown, note=note, page=pages, width=width)

    def html(self) -> str:
        """The whole page."""
        here = files("memfast.report")
        style, script = ((here / f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
        digest = b64encode(sha256(script.encode()).digest()).decode()
        environment = Environment(loader=PackageLoader("memfast.report", "."), autoescape=True)
        return environment.get_template("report.html").render(
            title=self.title,
            subtitle=self.subtitle,
            banner=self.banner,
            figures=self.figures,
            sections=self.sections,
            style=Markup(style),
            script=Markup(script),
            script_hash=Markup(f"sha256-{digest}"),
        )

    def write(self, path: str | Path) -> None:
        """Write the page, atomically."""
        atomic_write_text(Path(path), self.html())

    def _shot(self, shot: Mapping[str, Any]) -> dict[str, Any]:
        scores = (shot.get("scores") or {}).items()
        score = " · ".join(f"{_spaced(name)} {value:.2f}" for name, value in scores)
        embedded = self._embed(shot["file"])
        return {"name": shot["name"], "score": score, "copy": shot.get("copy"), **embedded}

    def _add(self, kind: str, heading: str, **content: Any) -> None:
        self.sections.append({"kind": kind, "heading": heading, **content})


def short(text: str) -> str:
    """The start of a text that is too long for a cell."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _spaced(name: str) -> str:
    return name.replace("ssim", "SSIM").replace("_", " ")


def _cell(value: Any) -> dict[str, Any]:
    """How a table shows a value, and by what it sorts it (None: by its text)."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return {"text": "–", "sort": "", "number": False}
    if isinstance(value, bool):
        return {"text": "yes" if value else "no", "sort": None, "number": False}
    if isinstance(value, float):
        text = f"{value:.3f}" if abs(value) >= 0.01 or not value else f"{value:.2g}"
        return {"text": text, "sort": value, "number": True}
    if isinstance(value, int):
        return {"text": f"{value:,}", "sort": value, "number": True}
    text = short(str(value))
    return {"text": text, "sort": None, "number": False, "line": len(text) <= 24}
