"""Files are written whole or not at all, and headers say what a file is."""

from pathlib import Path

import pytest
import torch

from memfast.errors import InputError
from memfast.files import atomic_write, load_tensors, prepare_out, save_tensors

HEADER = {"kind": "thing", "format": 2, "note": ["naïve", 1.5, None]}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_write(path, lambda temporary: temporary.write_text("old"))

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        atomic_write(path, fail)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_tensors_and_header_come_back(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6).reshape(2, 3).T, "b": torch.tensor([True]), "c": torch.ones(0)}
    save_tensors(tmp_path / "t.safetensors", tensors, HEADER)
    found, header = load_tensors(tmp_path / "t.safetensors", "thing", 2)
    assert header == HEADER
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize(
    ("kind", "version", "says"),
    [("other", 2, "holds thing; needed: other"), ("thing", 1, "format 2 is newer than .*1")],
)
def test_other_files_are_refused(tmp_path: Path, kind: str, version: int, says: str) -> None:
    save_tensors(tmp_path / "t.safetensors", {"a": torch.ones(1)}, HEADER)
    with pytest.raises(InputError, match=says):
        load_tensors(tmp_path / "t.safetensors", kind, version)


def test_damaged_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    with pytest.raises(InputError, match="no such file"):
        load_tensors(path, "thing", 2)
    save_tensors(path, {"a": torch.ones(100)}, HEADER)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_tensors(path, "thing", 2)


def test_a_header_needs_kind_and_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="header"):
        save_tensors(tmp_path / "t", {}, {"kind": "thing"})


def test_out_folders(tmp_path: Path) -> None:
    assert prepare_out(tmp_path / "new" / "deep").is_dir()
    (tmp_path / "new" / "file").write_text("kept")
    with pytest.raises(InputError, match="is not empty"):
        prepare_out(tmp_path / "new")
    assert prepare_out(tmp_path / "new", overwrite=True) == tmp_path / "new"
    assert (tmp_path / "new" / "file").read_text() == "kept"
    with pytest.raises(InputError, match="is a file"):
        prepare_out(tmp_path / "new" / "file", overwrite=True)
