"""Files are written whole or not at all, and headers say what a file is."""

import csv
import json
import math
import os
from pathlib import Path

import pytest
import torch

from memfast.errors import InputError
from memfast.files import (
    atomic_create,
    atomic_write,
    atomic_write_json,
    atomic_write_text,
    load_tensors,
    prepare_out,
    read_json,
    read_record,
    safe_cell,
    save_tensors,
    try_out,
    write_csv,
    write_record,
)

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


def test_places_that_cannot_be_written_are_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, says in {
        tmp_path / ("n" * 300): "cannot be a name",
        tmp_path / "new" / ("ü" * 200): "cannot be a name",
        tmp_path / "a\0b": "cannot be a name",
        tmp_path / "file" / "below": "not a folder",
        Path("/proc/nothing"): "cannot be written",
    }.items():
        with pytest.raises(InputError, match=says):
            try_out(path)
    with pytest.raises(InputError, match="are free"):
        try_out(tmp_path / "new", 1 << 60)
    try_out(tmp_path / "new" / "deep", 1 << 20)
    with pytest.raises(InputError, match="--out"):
        prepare_out(tmp_path / ("n" * 300))
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    def full(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"file: cannot be written \(No space left"):
        atomic_write(tmp_path / "file", full)
    with pytest.raises(InputError, match="cannot be written"):
        atomic_write_text(tmp_path / ("n" * 300), "text")
    assert not any(tmp_path.iterdir())
    atomic_write_text(tmp_path / ("n" * 255), "text")  # the longest name there is


def test_exactly_one_creates(tmp_path: Path) -> None:
    assert atomic_create(tmp_path / "f", lambda path: path.write_text("first"))
    assert not atomic_create(tmp_path / "f", lambda path: path.write_text("second"))
    assert (tmp_path / "f").read_text() == "first"
    assert os.listdir(tmp_path) == ["f"]


def test_json_by_the_letter(tmp_path: Path) -> None:
    value = {"a": [1, math.nan, (math.inf,)], "b": {"c": -math.inf}, "d": "\udcff", "e": 0.1}
    atomic_write_json(tmp_path / "f.json", value)
    text = (tmp_path / "f.json").read_bytes().decode()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = json.loads(text, parse_constant=refuse)
    assert found == {"a": [1, None, [None]], "b": {"c": None}, "d": "\udcff", "e": 0.1}


def test_records_come_back_and_edits_are_found(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    value = {"a": [1, 0.1, None, "ü"], "b": {"2": True}}
    write_record(path, "thing", 2, value, run="r1")
    assert read_record(path, "thing", 2) == read_record(path, "thing", 3, "r1") == value
    text = path.read_text(encoding="utf-8")
    for edited, says in {
        text.replace("0.1", "0.2"): "checksum",
        text.replace("r1", "r2"): "checksum",
        text.replace("thing", "other"): "holds other; needed: thing",
        text.replace('"format": 2', '"format": 9'): "newer",
        text.replace('"format": 2', '"format": "x"'): "damaged",
        text[:-9]: "cannot be read",
        "[1]": "not a JSON object",
        "[" * 100_000: "cannot be read",
        "": "cannot be read",
    }.items():
        path.write_text(edited, encoding="utf-8")
        with pytest.raises(InputError, match=says):
            read_record(path, "thing", 2)
    write_record(path, "thing", 2, value, run="r1")
    with pytest.raises(InputError, match="of another run"):
        read_record(path, "thing", 2, "r2")
    path.write_bytes(b"\xff")
    for unreadable in (path, tmp_path, tmp_path / "none", tmp_path / ("n" * 300)):
        with pytest.raises(InputError, match=str(unreadable)):
            read_json(unreadable)


def test_a_bit_flipped_in_a_tensor_is_found(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.arange(9.0), "b": torch.tensor(3, dtype=torch.bfloat16)}, HEADER)
    whole = path.read_bytes()
    for place in range(len(whole) - 40, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(InputError, match=str(path)):
            load_tensors(path, "thing", 2)


@pytest.mark.parametrize(
    "header", ["3", "[1]", "null", "{", '"x"', '{"kind": "thing"}', "[" * 9_999]
)
def test_headers_that_are_none(tmp_path: Path, header: str) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "t", {"memfast": header})
    with pytest.raises(InputError, match=str(tmp_path / "t")):
        load_tensors(tmp_path / "t", "thing", 2)


def test_tensors_of_a_run_and_finite_ones(tmp_path: Path) -> None:
    save_tensors(tmp_path / "t", {"a": torch.tensor([1, math.nan])}, {**HEADER, "run": "r1"})
    load_tensors(tmp_path / "t", "thing", 2, run="r1")
    with pytest.raises(InputError, match="of another run"):
        load_tensors(tmp_path / "t", "thing", 2, run="r2")
    with pytest.raises(InputError, match="a holds numbers that are not finite"):
        load_tensors(tmp_path / "t", "thing", 2, finite=True)


def test_a_spreadsheet_computes_nothing(tmp_path: Path) -> None:
    cells = ["=1+1", "+1", "-1", "@a", "\tx", "\rx", "a=1", "", -1.5, None]
    write_csv(tmp_path / "t.csv", ["a", "=b"], [{"a": cell, "=b": 1, "c": 2} for cell in cells])
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["a", "'=b"]
    assert [row[0] for row in rows] == [*(f"'{c}" for c in cells[:6]), "a=1", "", "-1.5", ""]
    assert safe_cell(-1) == -1
