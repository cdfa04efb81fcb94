"""What a demo keeps goes on after a kill, and goes with the folder that makes it superfluous."""

from pathlib import Path

import pytest
import torch

from memfast.demo.kept import KIND, keeping_results
from memfast.errors import InputError
from memfast.files import check_replaceable, folders, replace_folder


def make(out: Path) -> Path:
    """Where one result is kept, made or read again."""
    with keeping_results(out, {"seed": 0}) as kept:
        kept.tensors("images", lambda: {"a": torch.ones(2)})
    return kept.folder


@pytest.mark.parametrize("killed", [False, True])
def test_a_finished_demo_keeps_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """Killed when its folder stands but nothing is tidied: the next run does that."""
    out = tmp_path / "out"
    kept = make(out)
    assert (kept / "images.safetensors").exists()
    if killed:
        monkeypatch.setattr(folders, "_settle", lambda work, path: None)
    replace_folder(
        out, lambda new: new.joinpath("a").mkdir(parents=True), "demo", False, {kept: KIND}
    )
    assert kept.exists() == killed
    monkeypatch.undo()
    (out / "file").touch()
    with pytest.raises(InputError, match="--overwrite"):
        check_replaceable(out, "demo", False)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_demo_that_did_not_finish_keeps_its_results(tmp_path: Path) -> None:
    out = tmp_path / "out"
    kept = make(out)

    def fail(new: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left"):
        replace_folder(out, fail, "demo", False, {kept: KIND})
    assert (kept / "images.safetensors").exists()
    with keeping_results(out, {"seed": 0}) as again:
        assert again.tensors("images", dict)["a"].tolist() == [1, 1]
