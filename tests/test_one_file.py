"""One file and its summary: both or none, and nobody else's summary is ever replaced."""

from pathlib import Path

import pytest

from memfast.cli.one_file import FORMAT, KIND, check_file, finish_file, summary_beside
from memfast.cli.provenance import this_call
from memfast.errors import InputError
from memfast.files import write_record


def save(path: Path) -> None:
    path.write_text("new")


def refuse(path: Path) -> None:
    raise InputError(f"{path}: no space")


def test_only_the_commands_own_summary_is_no_hindrance(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    told = summary_beside(out)
    write_record(told, KIND, FORMAT, {"prompts": 3}, this_call())
    own = told.read_text()
    check_file(out, False)
    write_record(told, KIND, FORMAT, {"prompts": 3}, "another call")
    for text in (told.read_text(), own.replace("3", "4", 1), '{"prompts": 3}', "mine"):
        told.write_text(text)
        with pytest.raises(InputError, match="exists"):
            check_file(out, False)
        with pytest.raises(InputError, match="exists"):
            finish_file(out, save, "made", {}, False)
        assert told.read_text() == text
        assert not out.exists()
    told.write_text(own)
    out.write_text("old")
    with pytest.raises(InputError, match=r"out\.safetensors exists"):
        check_file(out, False)


def test_a_file_that_cannot_be_written_leaves_no_summary(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    with pytest.raises(InputError, match="no space"):
        finish_file(out, refuse, "made", {}, False)
    assert not any(tmp_path.iterdir())


def test_an_old_file_never_has_a_new_ones_summary(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    finish_file(out, save, "made", {"prompts": 3}, False)
    with pytest.raises(InputError, match="no space"):
        finish_file(out, refuse, "made", {"prompts": 4}, True)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    finish_file(out, save, "made", {"prompts": 4}, True)
    assert '"prompts": 4' in summary_beside(out).read_text()
