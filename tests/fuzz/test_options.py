"""Any option of any command, on the command line and in --config: taken, or one line."""

import tempfile
from pathlib import Path
from typing import Any

import typer
from hypothesis import strategies as st

from memfast.cli import ended
from memfast.cli.app import app
from tests.fuzz.budget import damaged, fuzzed

GROUP: Any = typer.main.get_command(app)
for command in GROUP.commands.values():
    command.callback = lambda **_: None  # what is given is read and checked, and no more
    for parameter in command.params:
        parameter.required = False
OPTIONS = {
    name: [option for parameter in command.params for option in parameter.opts]
    for name, command in GROUP.commands.items()
}
NUMBERS = [0, -1, 1.5, 1001, 10**9, 10**30, "nan", "inf", "-inf", "1e400", "0x1", "1_0", "٣"]
WORDS = ["", " ", ",", "[/b]", "\x1b[31m", "x" * 300, "x" * 5000, "/", "a/b", "a=b", "-", "--", "é"]
VALUES = st.sampled_from([str(value) for value in NUMBERS] + WORDS) | st.text(max_size=6)


def line(words: list[str]) -> str | None:
    """The line that a command ends with; None where its words are taken."""
    try:
        GROUP(words, prog_name="memfast", standalone_mode=False)
    except BaseException as error:
        code, told = ended(error, False)
        assert code == 2, f"{words}: {told}"
        assert told.startswith("error: ") or not told
        return told
    return None


@st.composite
def spoken(draw: st.DrawFn) -> list[str]:
    name = draw(st.sampled_from(list(OPTIONS)))
    words = [name]
    for _ in range(draw(st.integers(0, 4))):
        words.append(draw(st.sampled_from(OPTIONS[name]) | VALUES))
        words.append(draw(VALUES))
    return words


@fuzzed(400, words=spoken())
def test_any_words(words: list[str]) -> None:
    line([word for word in words if word != "--help"])


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | VALUES
ENTRIES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(VALUES, inner, max_size=3)
)
SPOILT = [
    b"a: &a [*a]",
    b"seed: 2001-13-45",
    b"seed: !!python/object:os.system x",
    b"seed: !!binary x",
    b"? [a]\n: b",
    b"seed: 0b",
    b"seed: 190:20:30",
    b"seed: " + b"9" * 5000,
    b"[" * 1000,
    b"seed: &x {<<: *x}",
    b"<<: 1",
    b"seed: .inf",
    b"\xff\xfes",
    b"a: \x00",
    b"---\na: 1\n---\nb: 2",
]


@st.composite
def configs(draw: st.DrawFn) -> tuple[str, bytes]:
    import yaml

    name = draw(st.sampled_from([n for n, options in OPTIONS.items() if "--config" in options]))
    known = [option.lstrip("-") for option in OPTIONS[name] if option.startswith("--")]
    entries = draw(st.dictionaries(st.sampled_from(known) | VALUES, ENTRIES, max_size=4))
    return name, yaml.safe_dump(entries).encode("utf-8", "surrogatepass")


@fuzzed(150, config=configs(), change=st.data())
def test_any_config(config: tuple[str, bytes], change: st.DataObject) -> None:
    name, whole = config
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.yaml"
        path.write_bytes(change.draw(damaged(st.just(whole) | st.sampled_from(SPOILT))))
        told = line([name, "--config", str(path)])
        assert told is None or str(path) in told
