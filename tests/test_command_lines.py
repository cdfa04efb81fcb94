"""Every command line of the documents is one that memfast takes: names, options and values."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from memfast.cli.app import app

ROOT = Path(__file__).parents[1]
GROUP: Any = typer.main.get_command(app)
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.name: path.read_text() for path in DOCUMENTS}
FENCED = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
OTHERS = {"--benchmark", "--device", "--lf"}  # of pytest, in the same documents


def written() -> list[Any]:
    """The commands of all fenced blocks, continued lines joined."""
    found = []
    for name, text in TEXTS.items():
        for block in FENCED.findall(text):
            for line in re.split(r"\n|&& ", block.replace("\\\n", " ")):
                if line.startswith("memfast "):
                    words = shlex.split(line, comments=True)
                    found.append(pytest.param(words[1:], id=f"{name}: {' '.join(words)}"))
    return found


WRITTEN = written()


@pytest.mark.parametrize("words", WRITTEN)
def test_a_command_line_is_taken(words: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for word in words[1:]:
        if "/" not in word and not word.startswith("-"):
            Path(word).touch()  # whatever it names to read is there
    name, *given = words
    GROUP.commands[name].make_context(name, given)


def test_there_are_command_lines() -> None:
    assert len(WRITTEN) > 15


@pytest.mark.parametrize("name", TEXTS)
def test_what_the_text_names_is_there(name: str) -> None:
    """`memfast COMMAND --option` within a sentence, and options alone."""
    of = {
        n: {o for p in c.params for o in p.opts + p.secondary_opts}
        for n, c in GROUP.commands.items()
    }
    known = set().union(*of.values(), *(each.opts for each in GROUP.params), OTHERS, {"--help"})
    prose = re.sub(r"^```.*?^```", "", TEXTS[name], flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`([^`]+)`", prose):
        words = span.split()
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        if words[0] == "memfast" and words[1:] and words[1] not in ("…", "--help"):
            assert words[1] in of, span
            assert options <= of[words[1]] | {"--help"}, span
        elif words[0].startswith("--"):
            assert options <= known, span
