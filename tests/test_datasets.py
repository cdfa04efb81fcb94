"""Dataset folders as `datasets` lays them out, and tables whose files may be damaged."""

import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from memfast.errors import InputError
from memfast.images import read_image
from memfast.limits import DEFAULT
from memfast.prompts import Rejected, read_prompts
from memfast.prompts.sources import columnar_child as child
from memfast.prompts.sources.embedded import embedded_name

ROWS = {"prompt": ["a cat", "a dog", "naïve"], "id": ["x", "y", "z"]}


def write_stream(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


def write_file(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


def packed(path: Path, write, table: pa.Table) -> None:
    write(path.with_suffix(""), table)
    data = path.with_suffix("").read_bytes()
    zstd = pa.Codec("zstd")
    path.write_bytes(
        gzip.compress(data) if path.suffix == ".gz" else zstd.compress(data, asbytes=True)
    )


WRITERS = {
    "s.arrow": write_stream,
    "f.arrow": write_file,
    "p.parquet": lambda path, table: pq.write_table(table, path),
    "s.arrow.gz": lambda path, table: packed(path, write_stream, table),
    "s.arrow.zst": lambda path, table: packed(path, write_stream, table),
    "f.arrow.gz": lambda path, table: packed(path, write_file, table),
    "f.arrow.zst": lambda path, table: packed(path, write_file, table),
}


@pytest.mark.parametrize(
    ("name", "text"),
    [(name, pa.string()) for name in WRITERS]
    + [(n, t) for n in ("s.arrow", "p.parquet") for t in (pa.large_string(), pa.binary())]
    + [("f.arrow", "dictionary"), ("p.parquet", "dictionary")],
)
def test_columns_of_text(tmp_path: Path, name: str, text) -> None:
    column = pa.array(ROWS["prompt"]) if text == "dictionary" else pa.array(ROWS["prompt"], text)
    column = column.dictionary_encode() if text == "dictionary" else column
    WRITERS[name](tmp_path / name, pa.table({**ROWS, "prompt": column, "other": [1, 2, 3]}))
    prompts = [prompt for prompt in read_prompts(tmp_path / name)]
    assert [p.text for p in prompts] == ROWS["prompt"]
    assert [(p.id, p.line) for p in prompts] == [("x", 1), ("y", 2), ("z", 3)]


BAD_CELLS = {
    "not UTF-8": pa.array([b"a", b"caf\xe9", b"c"]).view(pa.string()),
    "no word": pa.array([["a"], None, {"b"}], pa.list_(pa.string())),
    "far": pa.array([0, 2**62, 0], pa.timestamp("us")),
    "long": pa.array(["a", "x" * (1 << 21), "c"]),
    "duration": pa.array([1000, 1, 1000], pa.duration("ns")),
}


@pytest.mark.parametrize("name", ["s.arrow", "p.parquet"])
@pytest.mark.parametrize("kind", BAD_CELLS)
def test_a_bad_cell_is_a_bad_row(tmp_path: Path, name: str, kind: str) -> None:
    WRITERS[name](tmp_path / name, pa.table({**ROWS, "label": BAD_CELLS[kind]}))
    rejected: list[Rejected] = []
    prompts = read_prompts(tmp_path / name, on_rejected=rejected.append)
    assert prompts.texts == (["a dog"] if kind == "no word" else ["a cat", "naïve"])
    assert {row.line for row in rejected} == ({1, 3} if kind == "no word" else {2})
    assert all("label" in row.reason for row in rejected)


def test_only_the_columns_used_are_read(tmp_path: Path) -> None:
    """100 MB of noise beside three captions, under a limit of 60 MB."""
    import numpy as np

    noise = np.random.default_rng(0).bytes(1 << 20)
    table = pa.table({"prompt": [f"p{i}" for i in range(100)], "image": [noise] * 100})
    small = DEFAULT.changed(["memory=60e6"])
    for name in ("s.arrow", "p.parquet"):
        WRITERS[name](tmp_path / name, table)
        assert len(read_prompts(tmp_path / name, limits=small)) == 100


@pytest.mark.parametrize("name", ["s.arrow", "p.parquet"])
def test_a_bomb_is_one_line(tmp_path: Path, name: str) -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 5_000, pa.int32()), ["x" * 5_000_000])
    WRITERS[name](tmp_path / name, pa.table({"prompt": words}))
    with pytest.raises(InputError, match="limit line"):
        read_prompts(tmp_path / name)
    if name == "p.parquet":  # the other is read from where it lies
        with pytest.raises(InputError, match="limit memory"):
            read_prompts(tmp_path / name, limits=DEFAULT.changed(["memory=3e7"]))


def test_a_child_that_dies_is_one_line(tmp_path: Path, monkeypatch) -> None:
    """Whatever a damaged file does to the reader, short of stopping it, it does to a child."""
    from memfast.prompts.sources import columnar

    path = tmp_path / "p.parquet"
    pq.write_table(pa.table(ROWS), path)
    crash = columnar._START.replace("serve(request)", "import os; os.kill(os.getpid(), 11)")
    monkeypatch.setattr(columnar, "_START", crash)
    for read in (read_prompts, lambda path: read_image(embedded_name(path, 1))):
        with pytest.raises(InputError, match=r"damaged or too large; .* signal 11"):
            read(path)


@pytest.mark.parametrize("name", ["s.arrow", "f.arrow", "p.parquet"])
def test_damaged_tables(tmp_path: Path, name: str, capsys) -> None:
    """Every byte set to 255, in turn: rows or one line, within this process, which must live."""
    from dataclasses import asdict

    path = tmp_path / name
    WRITERS[name](path, pa.table({**ROWS, "label": pa.array(["a", "b", "a"]).dictionary_encode()}))
    whole = path.read_bytes()
    request = {"file": str(path), "task": "rows", "column": None, "limits": asdict(DEFAULT)}
    child_memory, child._restrict = child._restrict, lambda memory: None
    try:
        for place in range(0, len(whole), 7):
            path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
            child.serve(request)
            last = json.loads(capsys.readouterr().out.splitlines()[-1])
            assert last[0] == "end" or (last[0] == "error" and str(path) in last[1])
    finally:
        child._restrict = child_memory


def dataset(folder: Path, table: pa.Table, name: str = "data-00000-of-00001.arrow") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_stream(folder / name, table)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))


def test_what_map_left_does_not_count(tmp_path: Path) -> None:
    dataset(tmp_path, pa.table(ROWS))
    write_stream(tmp_path / "cache-0123456789abcdef.arrow", pa.table(ROWS))
    assert read_prompts(tmp_path).texts == ROWS["prompt"]


def test_splits_come_in_their_order(tmp_path: Path) -> None:
    dataset(tmp_path / "train", pa.table({"prompt": ["a"]}))
    dataset(tmp_path / "test", pa.table({"prompt": ["b"]}))
    dataset(tmp_path / "dropped", pa.table({"prompt": ["c"]}))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert read_prompts(tmp_path).texts == ["a", "b"]


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("[]", "not a JSON object"),
        ("{", "cannot be read"),
        ('{"_data_files": [{"filename": "../other.arrow"}]}', "not the name of a file"),
        ('{"_data_files": [{"filename": 3}]}', "not the name of a file"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', "is not there"),
        ('{"_indices_data_files": [{"filename": "i.arrow"}]}', "flatten_indices"),
    ],
)
def test_states_that_cannot_be_used(tmp_path: Path, state: str, says: str) -> None:
    dataset(tmp_path, pa.table(ROWS))
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(InputError, match=says):
        read_prompts(tmp_path)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_image_folders(tmp_path: Path, suffix: str) -> None:
    """metadata files name images from their own folder; nothing else beside them is a list."""
    for split in ("train", "test"):
        folder = tmp_path / split
        folder.mkdir()
        (folder / "notes.txt").write_text("not a caption\n")
        row = {"file_name": "images/1.png", "text": f"a {split}"}
        match suffix:
            case "csv":
                (folder / "metadata.csv").write_text(f"file_name,text\n{','.join(row.values())}\n")
            case "jsonl":
                (folder / "metadata.jsonl").write_text(json.dumps(row))
            case _:
                pq.write_table(pa.Table.from_pylist([row]), folder / "metadata.parquet")
    found = {prompt.text: prompt.image for prompt in read_prompts(tmp_path)}
    assert found == {f"a {s}": str(tmp_path / s / "images/1.png") for s in ("train", "test")}


def test_bad_rows_of_a_folder_name_their_file(tmp_path: Path) -> None:
    for part in ("a", "b"):
        (tmp_path / f"{part}.jsonl").write_text('{"prompt": "good"}\n{"prompt": ""}\n')
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "c.jsonl").write_text('"hidden"\n')
    rejected: list[Rejected] = []
    assert len(read_prompts(tmp_path, on_rejected=rejected.append)) == 2
    assert [(row.file, row.line) for row in rejected] == [("a.jsonl", 2), ("b.jsonl", 2)]
    with pytest.raises(InputError, match="limit files"):
        read_prompts(tmp_path, limits=DEFAULT.changed(["files=1"]))


def png(value: int) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (2, 2), (value, 0, 0)).save(target, "PNG")
    return target.getvalue()


@pytest.mark.parametrize("name", ["s.arrow", "f.arrow", "p.parquet"])
@pytest.mark.parametrize("bare", [True, False])
def test_images_within_a_table(tmp_path: Path, name: str, bare: bool) -> None:
    images = [png(value) for value in range(150)]
    structs = [{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(images)]
    if not bare:
        structs[1] = {"bytes": None, "path": "beside.png"}
        structs[2] = {"bytes": None, "path": None}
        (tmp_path / "beside.png").write_bytes(png(200))
    column = images if bare else structs
    table = pa.table({"prompt": [f"p{i}" for i in range(150)], "image": column})
    path = tmp_path / name
    if name == "p.parquet":
        pq.write_table(table, path, row_group_size=40)
    else:
        WRITERS[name](path, table)
    places = [prompt.image for prompt in read_prompts(path)]
    for row in (0, 149, 81, 82, 82):
        assert read_image(str(places[row])).getpixel((0, 0)) == (row, 0, 0)
    if not bare:
        assert read_image(str(places[1])).getpixel((0, 0)) == (200, 0, 0)
        with pytest.raises(InputError, match="row 3: holds no image"):
            read_image(str(places[2]))
    for wrong in (embedded_name(path, 151), embedded_name(path, 0), "embedded://x", "embedded://"):
        with pytest.raises(InputError, match="embedded://"):
            read_image(wrong)
