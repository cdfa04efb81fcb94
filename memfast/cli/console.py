"""What commands show: a progress bar, a closing table, and the same figures as summary.json."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from memfast.errors import printable
from memfast.files import to_json
from memfast.progress import Stage, silent

MISSED = 3  # exit code: a bound or a verdict failed
FIGURE, LONGEST = 24, 40  # characters of a cell that is not wrapped, and of any unbroken word
EVERY = 30.0  # seconds between lines of progress where there is no terminal


class PlainConsole(Console):
    """What is printed is data: nothing in it is markup, nor steers the terminal."""

    def __init__(self) -> None:
        super().__init__(markup=False, emoji=False)

    def print(self, *objects: Any, **how: Any) -> None:
        super().print(*(printable(o) if isinstance(o, str) else o for o in objects), **how)


console = PlainConsole()
_as_json = False


def speak(quiet: bool, as_json: bool) -> None:
    """How the running command speaks: not at all, or on stdout in nothing but JSON."""
    global _as_json
    console.quiet, _as_json = quiet or as_json, as_json


def tell(summary: Mapping[str, Any]) -> None:
    """Print a command's summary, where it was asked for as JSON."""
    if _as_json:
        print(to_json(dict(summary), indent=2), flush=True)


def missed(*reasons: str) -> NoReturn:
    """End the command with exit code 3: each line says which bound or verdict failed."""
    for reason in reasons:
        print(printable(f"failed: {reason}"), file=sys.stderr)
    raise typer.Exit(MISSED)


class Bar:
    """Progress of one command over its named stages; nothing is shown before the first."""

    def __init__(self, progress: Progress):
        self._progress = progress

    def stage(self, label: str, total: int) -> "Advance":
        """A new bar; call the result with the number of units done."""
        self._progress.start()
        return Advance(self._progress, self._progress.add_task(label, total=total))


class Advance:
    def __init__(self, progress: Progress, task: Any):
        self._progress, self._task = progress, task

    def __call__(self, done: int = 1) -> None:
        self._progress.advance(self._task, done)


class Lines:
    """The same as lines on stderr, for a log: one every half a minute."""

    def stage(self, label: str, total: int) -> "Line":
        return Line(label, total)


class Line:
    def __init__(self, label: str, total: int):
        self._label, self._total, self._done = label, total, 0
        self._started = self._said = time.monotonic()

    def __call__(self, done: int = 1) -> None:
        self._done += done
        now = time.monotonic()
        if now - self._said < EVERY:
            return
        self._said = now
        left = (now - self._started) * (self._total - self._done) / max(1, self._done)
        told = f"{self._label}: {self._done:,} of {self._total:,}, about {left:.0f} s left"
        print(printable(told), file=sys.stderr, flush=True)


class Silent:
    """No progress at all."""

    stage: Stage = staticmethod(silent)


@contextmanager
def progress() -> Iterator[Bar | Lines | Silent]:
    """A progress display on stderr for the duration of a command."""
    if console.quiet or not sys.stderr.isatty():
        yield Silent() if console.quiet else Lines()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    display = Progress(*columns, console=Console(stderr=True))
    try:
        yield Bar(display)
    finally:
        if display.live.is_started:  # else it would print an empty line
            display.stop()


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table; the first column is text, the others are figures.

    No figure is cut or wrapped: columns that the terminal has no room for follow in further tables,
    beside the first column again.
    """
    cells = [[format_figure(cell) for cell in row] for row in rows]
    widths = [unbroken(column) for column in zip(columns, *cells, strict=True)]
    for number, part in enumerate(abreast(widths, console.width)):
        table = Table(title=None if number else title, title_justify="left")
        for place in part:
            justify = "right" if place else "left"
            table.add_column(columns[place], justify=justify, min_width=widths[place])
        for row in cells:
            table.add_row(*(row[place] for place in part))
        console.print(table)


def unbroken(column: Sequence[str]) -> int:
    """Characters that a column needs at least: its figures whole, texts and its title by words."""
    title, *cells = column
    parts = [part for cell in cells for part in ([cell] if len(cell) <= FIGURE else cell.split())]
    return min(LONGEST, max(map(len, [*title.split(), *parts]), default=0))


def abreast(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """The columns of each table: all where there is room, else in parts, each after the first."""
    part = [0]
    for place in range(1, len(widths)):
        if len(part) > 1 and sum(widths[p] + 3 for p in [*part, place]) + 1 > room:
            yield part
            part = [0]
        part.append(place)
    yield part


def format_figure(value: Any) -> str:
    """A cell: floats to three significant decimals, integers with thousands separators."""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return printable(str(value))


def finish(out: Path, title: str, summary: Mapping[str, Any]) -> None:
    """Print the plain figures of what was written as `out`, and where that and its summary are."""
    show_figures(title, summary)
    path = out / "summary.json" if out.is_dir() else summary_beside(out)
    console.print(f"wrote {out} and {path}", highlight=False, soft_wrap=True)
    tell(summary)


def show_figures(title: str, summary: Mapping[str, Any]) -> None:
    """Print the plain figures of a summary."""
    plain = {k: v for k, v in summary.items() if isinstance(v, int | float | str)}
    show_table(title, ("figure", "value"), plain.items())


def summary_beside(out: Path) -> Path:
    """Where the summary of a single file goes."""
    return out.with_name(f"{out.stem}.summary.json")
