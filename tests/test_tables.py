"""Tables on a terminal of 80 columns: no line is longer, no figure is wrapped or cut."""

import pytest

from memfast.cli.console import console, show_table
from memfast.cli.finding.families import families
from memfast.cli.finding.plan import plan


@pytest.fixture(params=[80, 60])
def width(request, monkeypatch) -> int:
    monkeypatch.setattr(console, "_width", request.param)
    return request.param


def shown(capsys, width: int) -> list[list[str]]:
    """The cells of each line."""
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= width for line in lines)
    return [[cell.strip() for cell in line.strip("│┃").split("│")] for line in lines]


@pytest.mark.parametrize("columns", [2, 5, 9, 30])
def test_no_figure_is_broken(columns: int, width: int, capsys) -> None:
    titles = ["method", *(f"control, by measure {n}" for n in range(1, columns))]
    rows = [
        [f"pruning {r}", *(f"{r}.{n:02} [.010, .999] of 96" for n in range(1, columns))]
        for r in (1, 2)
    ]
    show_table("copies", titles, rows)
    lines = shown(capsys, width)
    for row in rows:
        assert [cell for line in lines if line[0] == row[0] for cell in line[1:]] == row[1:]


def test_words_are_wrapped_whole(width: int, capsys) -> None:
    verdict = "none of these captions is copied, as far as 4 seeds of each can tell it apart"
    show_table("audited", ("figure", "value"), {"verdict": verdict, "flagged": 1234567}.items())
    lines = shown(capsys, width)
    assert (
        " ".join(line[1] for line in lines if len(line) > 1 and line[0] in ("verdict", ""))
        == verdict
    )
    assert ["flagged", "1,234,567"] in lines


def test_what_is_known_of_models_fits(width: int, capsys) -> None:
    if width == 80:
        families()
        assert any("attention-rescaling" in cell for line in shown(capsys, width) for cell in line)
    plan("demo", "all", "H100", None, 1000, "auto")
    cells = [cell for line in shown(capsys, width)[1:] for cell in line]  # without the title
    assert sum(cell.endswith(" GB") for cell in cells) == 8 * 3
    assert sum(cell.endswith(" h") for cell in cells) == 8
