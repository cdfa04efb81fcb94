"""Lists that are given to commands: left out alike, told alike, read within the same limits."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from memfast.cli.app import app
from memfast.errors import InputError
from memfast.limits import DEFAULT, Limits, current, use
from memfast.prompts import PromptSet, inputs, open_list


@pytest.fixture(autouse=True)
def usual_limits():
    yield
    use(DEFAULT)


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text('id,prompt,label\na,one,nan\na,two,x\n,"x\nb,,\nc,three,y,z\n')
    prompts = open_list(path)
    assert prompts.texts == ["one", "two"]
    assert prompts.texts == ["one", "two"]  # read again, they count once
    found = inputs(prompts=prompts, reference=None, other=PromptSet.of(["x"], "/home/me/y.txt"))
    assert found["prompts"]["list"] == "list.csv"
    assert found["prompts"]["rejected"] == 3
    assert [row.partition(":")[0] for row in found["prompts"]["rejected_rows"]] == [
        "line 4",
        "line 5",
        "line 6",
    ]
    assert found["prompts"]["notes"] == {"label is NaN": 1}
    assert found["prompts"]["ids_of_several_captions"] == ["'a' (lines 2 and 3)"]
    assert found["other"] == {"list": "y.txt"}
    assert "reference" not in found
    json.dumps(found)
    with pytest.raises(InputError, match=r"more than 2 bad rows \(--max-rejected\); line 6"):
        open_list(path, max_rejected=2).texts  # noqa: B018


def test_bad_rows_of_one_line_in_two_files_are_two(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "x"}\n{"prompt": ""}\n')
    prompts = open_list(tmp_path)
    assert len(prompts) == 2
    assert inputs(p=prompts)["p"]["rejected_rows"] == [
        "a.jsonl, line 2: no prompt",
        "b.jsonl, line 2: no prompt",
    ]


def test_limits_in_use_hold_for_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("short\nmuch longer\n")
    use(Limits(caption=6))
    prompts = open_list(path)
    use(DEFAULT)
    assert prompts.texts == ["short"]  # those of when it was opened
    assert current() == DEFAULT


COLLECT = ("collect", "demo", "--prompts", "list.txt", "--out", "s.safetensors")
ATTACK = ("attack", "demo", "--memorized", "list.txt", "--out", "out")


@pytest.mark.parametrize("command", [COLLECT, ATTACK])
@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("rows=1", "more than 1 rows (limit rows)"),
        ("row=1", "NAME one of line, row_lines"),
        ("pixels=-1", "must be NAME=NUMBER from 1"),
        ("pixels", "must be NAME=NUMBER from 1"),
    ],
)
def test_a_limit_is_an_option(
    tmp_path: Path, monkeypatch, command: tuple[str, ...], setting: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text("one\ntwo\n")
    found = CliRunner().invoke(app, [*command, "--limit", setting])
    assert says in str(found.exception) + found.output
    assert [entry.name for entry in tmp_path.iterdir()] == ["list.txt"]


def test_of_captions_too(tmp_path: Path, monkeypatch) -> None:
    from memfast.cli.lists import captions

    assert captions(["rows=3", "24"]) == 24
    assert captions(["rows=3"]) is captions(None) is None
    with pytest.raises(InputError, match="at least 1"):
        captions(["0"])
