"""The guard from the command line: calibrate, index, generate."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from memfast.guarding import generating
from tests.guarding.test_guard import TEXTS
from tests.test_commands import call

REFERENCES = [f"{word} {letter}" for word in ("red", "a", "c", "on") for letter in "stuvwxyz"]
PROMPTS = [*TEXTS, *REFERENCES[::4]]
SHORT = ["--num-inference-steps", "2", "--device", "cpu"]


@pytest.fixture
def lists(tmp_path: Path) -> tuple[Path, Path]:
    prompts, reference = tmp_path / "prompts.txt", tmp_path / "reference.txt"
    prompts.write_text("\n".join(PROMPTS))
    reference.write_text("\n".join(REFERENCES))
    return prompts, reference


@pytest.fixture
def calibration(tiny_folder: Path, lists: tuple[Path, Path], tmp_path: Path) -> Path:
    """Some of the prompts are above its threshold, some are not."""
    out = tmp_path / "g.safetensors"
    words = ["--reference", lists[1], "--out", out, "--fpr", "0.5", *SHORT]
    assert call("calibrate", tiny_folder, *words) == 0
    told = json.loads((tmp_path / "g.summary.json").read_text())
    assert told["false_alarm_rate"] == 0.5
    assert told["references"] == len(REFERENCES)
    return out


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "images.jsonl").read_text().splitlines()]


def pixels(out: Path) -> dict[str, bytes]:
    return {path.name: Image.open(path).tobytes() for path in sorted((out / "images").iterdir())}


def test_generates_under_guard_what_it_generates_without(
    tiny_folder: Path, lists: tuple[Path, Path], calibration: Path, tmp_path: Path
) -> None:
    bare, guarded = tmp_path / "bare", tmp_path / "guarded"
    words = ["--prompts", lists[0], "--seeds", "2", *SHORT]
    assert call("generate", tiny_folder, *words, "--out", bare) == 0
    more = ["--guard", calibration, "--policy", "blank"]
    assert call("generate", tiny_folder, *words, *more, "--out", guarded) == 0
    found, images, plain = lines(guarded), pixels(guarded), pixels(bare)
    assert len(found) == len(plain) == 2 * len(PROMPTS)
    assert [line["prompt"] for line in found] == [text for text in PROMPTS for _ in range(2)]
    assert {line["flagged"] for line in found} == {True, False}
    for line in found:
        name = Path(line["image"]).name
        assert line["flagged"] == (
            line["score"] > json.loads((guarded / "summary.json").read_text())["guard"]["threshold"]
        )
        assert (images[name] == plain[name]) == (not line["flagged"])
        assert any(images[name]) == (not line["withheld"])
    summary = json.loads((guarded / "summary.json").read_text())
    flagged = sum(line["flagged"] for line in found)
    assert (summary["images"], summary["flagged"]) == (2 * len(PROMPTS), flagged)
    assert summary["by_policy"] == {"blank": flagged}


def test_goes_on_where_it_was_stopped(
    tiny_folder: Path,
    lists: tuple[Path, Path],
    calibration: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    words = ["--prompts", lists[0], "--guard", calibration, "--batch-size", "1", *SHORT]
    assert call("generate", tiny_folder, *words, "--out", whole) == 0
    make, made = generating._make, []

    def stopping(*given: Any) -> None:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(given)
        make(*given)

    monkeypatch.setattr(generating, "_make", stopping)
    assert call("generate", tiny_folder, *words, "--out", stopped) == 130
    with open(stopped / "images.jsonl", "a") as file:
        file.write('{"number": 2, "half a li')  # as a kill leaves it
    monkeypatch.setattr(generating, "_make", make)
    assert call("generate", tiny_folder, *words, "--out", stopped) == 0
    assert pixels(stopped) == pixels(whole)
    assert lines(stopped) == lines(whole)
    other = ["--prompts", lists[0], "--batch-size", "1", *SHORT]
    assert call("generate", tiny_folder, *other, "--out", stopped) == 2


def test_an_audit_s_folder_is_a_calibration(
    tiny_folder: Path, lists: tuple[Path, Path], tmp_path: Path
) -> None:
    audit = ["--prompts", lists[0], "--device", "cpu", "--fpr", "0.5"]
    with_reference, without = tmp_path / "with", tmp_path / "without"
    prompts = tmp_path / "many.txt"
    prompts.write_text("\n".join([*PROMPTS, *(f"{text} on {text}" for text in REFERENCES)]))
    audit[1] = prompts
    assert call("audit", tiny_folder, *audit, "--reference", lists[1], "--out", with_reference) == 0
    assert call("audit", tiny_folder, *audit, "--out", without) == 0
    words = ["--prompts", lists[0], *SHORT]
    out = tmp_path / "images"
    assert call("generate", tiny_folder, *words, "--guard", with_reference, "--out", out) == 0
    assert call("generate", tiny_folder, *words, "--guard", without, "--out", tmp_path / "no") == 2
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--policy", "blank"], "need --guard"),
        (["--guard", "nowhere"], "nowhere"),
        (["--guard", "CALIBRATION", "--policy", "shout"], "must be of note"),
        (["--guard", "CALIBRATION", "--policy", "refuse"], "take blank"),
        (["--guard", "CALIBRATION", "--policy", "verify"], "needs index="),
        (["--guard", "CALIBRATION", "--index", "nowhere"], "no such"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    tiny_folder: Path,
    lists: tuple[Path, Path],
    calibration: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    says: str,
) -> None:
    more = [str(calibration) if word == "CALIBRATION" else word for word in more]
    capsys.readouterr()
    words = ["--prompts", lists[0], "--out", tmp_path / "out", *SHORT]
    assert call("generate", tiny_folder, *words, *more) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert says in said[-1]
    assert not (tmp_path / "out").exists()


def test_an_index_withholds_copies(
    tiny_folder: Path, lists: tuple[Path, Path], calibration: Path, tmp_path: Path
) -> None:
    """The index holds half of what the model makes: that is withheld, flagged or not."""
    bare, out = tmp_path / "bare", tmp_path / "out"
    words = ["--prompts", lists[0], *SHORT]
    assert call("generate", tiny_folder, *words, "--out", bare) == 0
    index = ["--out", tmp_path / "index", "--network", "efficientnet-lite0-spatial"]
    for path in sorted((bare / "images").iterdir())[::2]:
        path.unlink()
    assert call("index", bare / "images", *index) == 0
    more = ["--guard", calibration, "--policy", "verify", "--index", tmp_path / "index"]
    assert call("generate", tiny_folder, *words, *more, "--out", out) == 0
    kept = {path.name for path in (bare / "images").iterdir()}
    for line in lines(out):
        assert line["withheld"] == (line["copied"] is not None)
        assert line["withheld"] or Path(line["image"]).name not in kept
    assert any(line["withheld"] for line in lines(out))
