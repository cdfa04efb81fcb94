"""A path or a model that is not there is one line, with what is spelled like it, everywhere."""

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

import memfast
from memfast.auditing.merging import merge
from memfast.cli import main
from memfast.cli.app import COMMANDS as FUNCTIONS
from memfast.cli.app import app
from memfast.cli.command import WRITTEN
from memfast.errors import InputError
from memfast.files import near, there
from memfast.measuring.instruments import instruments
from memfast.pipelines.opening.naming import find_model, is_hub_id, not_loaded
from memfast.planning.parts import parts_of
from memfast.report.stored import page_of

GROUP: Any = typer.main.get_command(app)
MODELS = ("model", "models", "original")


def is_read(name: str, parameter: Any) -> bool:
    """Whether a command's parameter names what it reads."""
    kind = get_type_hints(FUNCTIONS[name]).get(parameter.name)
    path = Path in (kind, *get_args(kind)) or list[Path] in (kind, *get_args(kind))
    return parameter.name in MODELS or (path and parameter.opts[0] not in WRITTEN)


READ = [
    pytest.param(command, parameter, id=f"{name} {parameter.opts[0]}")
    for name, command in GROUP.commands.items()
    for parameter in command.params
    if is_read(name, parameter)
]


def given(parameter, value: str) -> list[str]:
    return [value] if parameter.param_type_name == "argument" else [parameter.opts[0], value]


def legal(parameter: Any, mistyped: Any) -> str:
    if parameter is mistyped:
        return "captoins"
    known = {"out": "new", "command": "collect", **dict.fromkeys(MODELS, "demo")}
    return known.get(parameter.name, "captions.csv")


@pytest.mark.parametrize(("command", "parameter"), READ)
def test_every_command_says_what_is_spelled_like_it(
    command, parameter, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("captions").mkdir()
    Path("captions.csv").write_text("prompt\na cat\n")
    filled = [each for each in command.params if each.required or each is parameter]
    words = [w for each in filled for w in given(each, legal(each, parameter))]
    argv = ["memfast", command.name, *words, "--out", "new"]
    monkeypatch.setattr("sys.argv", argv if has_out(command) else argv[:-2])
    with pytest.raises(SystemExit) as stop:
        main()
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert len(lines) == 1
    assert "captoins: no such f" in lines[0]
    assert "there is captions" in lines[0]
    assert sorted(path.name for path in Path().iterdir()) == ["captions", "captions.csv"]


def has_out(command) -> bool:
    return any("--out" in each.opts and not each.required for each in command.params)


def test_a_model_is_looked_for_before_torch_is_imported() -> None:
    code = "import sys; sys.argv = ['memfast', 'audit', 'demoo']; from memfast.cli import main\n"
    code += "try: main()\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "(there is demo" in done.stderr
    assert done.stdout.strip() == "False"


PLACES = {
    "statistics": memfast.NeuronStatistics.load,
    "subspace": memfast.Subspace.load,
    "prompts": memfast.read_prompts,
    "pipeline": memfast.load_pipeline,
    "plan": parts_of,
    "report": page_of,
    "audits": merge,
    "weights": lambda path: instruments(None, {"clip": str(path)}, None),
}


@pytest.mark.parametrize("place", PLACES)
def test_python_says_it_too(place: str, tmp_path: Path) -> None:
    (tmp_path / "founds").write_text("")
    (tmp_path / "foundd").mkdir()
    with pytest.raises(InputError, match=r"fuond: no such f.*\(there is .*found"):
        PLACES[place](tmp_path / "fuond")


def test_near_names(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lists/deep").mkdir(parents=True)
    Path("lists/memorized.jsonl").write_text("")
    assert near("lists/memorised.jsonl") == " (there is memorized.jsonl)"
    assert near("lists/memorised.jsonl", "folder") == ""
    assert near("list/memorized.jsonl") == " (there is lists)"
    assert near("nothing like it") == ""
    assert near("lists/memorized.jsonl/inside") == ""
    with pytest.raises(InputError, match=r"--x lists: not a file$"):
        there("lists", name="--x lists")
    with pytest.raises(InputError, match=r"^x: cannot be read"):
        there("a" * 300, name="x")
    assert there("lists", "file or folder") == Path("lists")


def test_hub_ids(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/model").mkdir(parents=True)
    assert find_model("someone/model") is None
    assert find_model("runs/model") == Path("runs/model")
    for name in ("./model", "~/model", "/model", "model", "a/b/c", "model/"):
        assert not is_hub_id(name)
        with pytest.raises(InputError, match="no such folder"):
            find_model(name)


class Answer:
    headers, request = {}, None


@pytest.mark.parametrize(
    ("behind", "said"),
    [
        (RepositoryNotFoundError("404\nlong", response=Answer()), "has none of that name"),  # type: ignore[arg-type]
        (LocalEntryNotFoundError("x"), "cannot be reached"),
        (ConnectionError("x"), "cannot be reached"),
    ],
    ids=["unknown", "uncached", "offline"],
)
def test_a_hub_id_that_is_not_there(behind: Exception, said: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/model").mkdir(parents=True)
    error = OSError("Cannot load\nmodel: many words")
    error.__cause__ = behind
    line = str(not_loaded("runs/modle", error))
    assert said in line
    assert "(there is model)" in line
    assert "\n" not in line
    assert "cannot be loaded" in str(not_loaded("runs/modle", OSError("odd")))
