"""The command line as a user meets it: a subprocess, its files, and one clear line on bad input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from memfast.cli import main

SHORT = ["--steps", "2", "--num-inference-steps", "4", "--guidance-scale", "2"]


def memfast(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "memfast", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_help_lists_the_commands_without_torch() -> None:
    code = "import sys; sys.argv = ['memfast', '--help']; from memfast.cli import main\n"
    code += "try: main()\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "locate" in done.stdout
    assert done.stdout.strip().endswith("False")


def test_the_path_by_commands(
    tiny_folder: Path, prompt_files: tuple[Path, Path], tmp_path: Path
) -> None:
    statistics, subspace, out = (tmp_path / n for n in ("s.safetensors", "u.safetensors", "safe"))
    done = memfast(
        "collect", tiny_folder, "--prompts", prompt_files[0], "--out", statistics, *SHORT
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "s.summary.json").read_text())["prompts"] == 2
    files = ["--memorized", statistics, "--reference", prompt_files[1], "--out", subspace]
    done = memfast("locate", tiny_folder, *files, "--fraction", "0.25", *SHORT)
    assert done.returncode == 0, done.stderr
    done = memfast("compact", tiny_folder, "--subspace", subspace, "--out", out)
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["neurons_after"] < summary["neurons_before"]
    assert (out / "model_index.json").is_file()
    config = tmp_path / "options.yaml"
    config.write_text("compensate: mean\n")
    done = memfast(
        "prune", tiny_folder, "--subspace", subspace, "--out", tmp_path / "m", "--config", config
    )
    assert done.returncode == 0, done.stderr


BAD = {
    "no such model": (
        ["collect", "{tmp}/none", "--prompts", "{prompts}", "--out", "{out}"],
        "none",
    ),
    "no such prompts": (
        ["collect", "{tiny}", "--prompts", "{tmp}/no.txt", "--out", "{out}"],
        "no.txt",
    ),
    "empty prompts": (["collect", "{tiny}", "--prompts", "{empty}", "--out", "{out}"], "empty.txt"),
    "fraction": (
        [
            *["locate", "{tiny}", "--memorized", "{prompts}", "--reference", "{prompts}"],
            "--fraction",
            "1.5",
            "--out",
            "{out}",
        ],
        "between 0 and 1",
    ),
    "file exists": (
        ["collect", "{tiny}", "--prompts", "{prompts}", "--out", "{prompts}"],
        "exists",
    ),
    "no subspace": (
        ["compact", "{tiny}", "--subspace", "{prompts}", "--out", "{out}"],
        "safetensors",
    ),
    "folder in use": (["compact", "{tiny}", "--subspace", "{prompts}", "--out", "{tiny}"], "empty"),
    "device": (
        ["collect", "{tiny}", "--prompts", "{prompts}", "--out", "{out}", "--device", "abacus"],
        "abacus",
    ),
    "unknown config": (
        ["collect", "{tiny}", "--prompts", "{prompts}", "--out", "{out}", "--config", "{config}"],
        "guidnace",
    ),
    "unknown option": (["collect", "{tiny}", "--promts", "x"], "promts"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    case: str,
    tiny_folder: Path,
    prompt_files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "c.yaml").write_text("guidnace-scale: 3\n")
    names = {
        "tmp": tmp_path,
        "tiny": tiny_folder,
        "prompts": prompt_files[0],
        "empty": tmp_path / "empty.txt",
        "config": tmp_path / "c.yaml",
        "out": tmp_path / "out",
    }
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    arguments, named = BAD[case]
    filled = [argument.format(**names) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["memfast", *filled])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ")
    assert named in message
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
