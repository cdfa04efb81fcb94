"""Prompt lists: every format holds the same prompts, bad rows are told, nothing is kept."""

import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfast.errors import InputError
from memfast.prompts import Prompt, PromptSet, Rejected, read_prompts

TEXTS = ["a red cat", 'say "hi", twice', "naïve アヤワスカ", "<i>The Interview</i>; it's on"]
ROWS = [
    {"id": f"p{i}", "prompt": text, "seed": i, "label": "VM", "image": f"images/{i}.png"}
    for i, text in enumerate(TEXTS)
]


def write_csv(path: Path, delimiter: str = ",") -> None:
    import csv

    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(ROWS[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def jsonl(rows: list) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def tabs(rows: list) -> str:
    """Cells with tabs between them, and nothing quoted."""
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def columns() -> dict[str, list]:
    return {name: [row[name] for row in ROWS] for name in ROWS[0]}


WRITERS = {
    "list.csv": write_csv,
    "semicolons.csv": lambda path: write_csv(path, ";"),
    "tabs.csv": lambda path: write_csv(path, "\t"),
    "list.tsv": lambda path: path.write_text(
        "".join(
            "\t".join(map(str, row)) + "\n" for row in [list(ROWS[0]), *map(dict.values, ROWS)]
        ),
        encoding="utf-8",
    ),
    "list.jsonl": lambda path: path.write_text(jsonl(ROWS), encoding="utf-8"),
    "mistaken.json": lambda path: path.write_text(jsonl(ROWS), encoding="utf-8"),
    "list.json": lambda path: path.write_text(json.dumps(ROWS)),
    "columns.json": lambda path: path.write_text(json.dumps(columns())),
    "coco.json": lambda path: path.write_text(json.dumps({"info": {}, "annotations": ROWS})),
    "pandas.json": lambda path: path.write_text(
        json.dumps({k: {str(i): v for i, v in enumerate(c)} for k, c in columns().items()})
    ),
    "list.parquet": lambda path: pq.write_table(pa.table(columns()), path),
    "list.csv.gz": lambda path: packed(path, "list.csv", gzip.compress),
    "list.jsonl.zst": lambda path: packed(path, "list.jsonl", zstd),
    "list.parquet.zst": lambda path: packed(path, "list.parquet", zstd),
    "list.parquet.gz": lambda path: packed(path, "list.parquet", gzip.compress),
}


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


def packed(path: Path, inner: str, pack) -> None:
    plain = path.with_name(f"inner-{inner}")
    WRITERS[inner](plain)
    path.write_bytes(pack(plain.read_bytes()))


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_holds_the_same_prompts(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    prompts = read_prompts(tmp_path / name)
    assert prompts.texts == TEXTS
    assert prompts.texts == TEXTS  # a second reading
    assert prompts.ids == ["p0", "p1", "p2", "p3"]
    assert [p.seed for p in prompts] == [0, 1, 2, 3]
    assert {p.label for p in prompts} == {"VM"}
    assert [p.image for p in prompts] == [str(tmp_path / f"images/{i}.png") for i in range(4)]
    assert len(prompts) == 4


def test_a_dataset_folder_as_save_to_disk_lays_it_out(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (tmp_path / "train" / "state.json").write_text("{}")
    (tmp_path / "train" / "dataset_info.json").write_text("{}")
    table = pa.table(columns())
    with pa.ipc.new_stream(tmp_path / "train/data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    assert read_prompts(tmp_path).texts == TEXTS


def test_a_dataset_folder_as_the_hub_lays_it_out(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("# a card")
    for part in (0, 1):
        rows = {name: values[2 * part : 2 * part + 2] for name, values in columns().items()}
        pq.write_table(pa.table(rows), tmp_path / "data" / f"train-0000{part}.parquet")
    assert read_prompts(tmp_path).texts == TEXTS


def test_lines_of_text(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfone, two\r\n\r\n  three  \nfour")
    prompts = list(read_prompts(path))
    assert [p.text for p in prompts] == ["one, two", "three", "four"]
    assert [p.line for p in prompts] == [1, 3, 4]


@pytest.mark.parametrize(
    ("head", "row"),
    [
        (",prompt,urls", "0,a cat,\"['http://x/y.jpg', 'http://z']\""),
        (";Caption;URL;type;mean_sscd;max_sscd;Index", "0;a cat;http://x;VM;0.83;0.84;1030727993"),
        ("TEXT\tURL", "a cat\thttp://x"),
        ("caption", "a cat"),
    ],
)
def test_heads_of_published_lists(tmp_path: Path, head: str, row: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"{head}\n{row}\n")
    (prompt,) = read_prompts(path)
    assert prompt.text == "a cat"
    assert prompt.id == hashlib.sha256(b"a cat").hexdigest()[:16]
    assert prompt.label == ("VM" if "type" in head else None)


def test_a_named_column(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("prompt,alt\na,b\n")
    assert read_prompts(path).texts == ["a"]
    assert read_prompts(path, "alt").texts == ["b"]


BAD = {
    "list.jsonl": (
        b'{"prompt": "good"}\n{"prompt": ""}\nnot json\n{"prompt": "caf\xe9"}\n[1]\n'
        b'{"prompt": 3}\n{"prompt": "\\ud800"}\n{"prompt": "' + b"x" * 10_001 + b'"}\n'
        b'{"prompt": "s", "seed": "many"}\n{"prompt": "last"}\n',
        [2, 3, 4, 5, 6, 7, 8, 9],
    ),
    "list.txt": (b"good\ncaf\xe9\n" + b"y" * 2_000_000 + b"\nlast\n", [2, 3]),
    "list.csv": (b"prompt,n\ngood,1\n,2\nb,1,2,3\nlast,4\n", [3, 4]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_told_with_their_lines(tmp_path: Path, name: str) -> None:
    content, lines = BAD[name]
    (tmp_path / name).write_bytes(content)
    rejected: list[Rejected] = []
    prompts = read_prompts(tmp_path / name, on_rejected=rejected.append)
    assert prompts.texts == ["good", "last"]
    assert [row.line for row in rejected] == lines
    assert all(row.reason for row in rejected)
    with pytest.raises(InputError, match=f"line {lines[0]}: "):
        list(read_prompts(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.txt", None, "no such file"),
        ("empty.txt", b"", "holds no prompt"),
        ("empty.csv", b"", "holds no prompt"),
        ("head.csv", b"prompt\n", "holds no prompt"),
        ("wrong.csv", b"a,b\n1,2\n", "--column: 'a', 'b'"),
        ("list.xlsx", b"PK", "unknown kind of file"),
        ("bad.parquet", b"PAR1 nonsense PAR1", "not a readable parquet"),
        ("bad.json", b"{", "cannot be read"),
        ("none.json", b'{"a": 1}', "needs a list"),
        ("bad.csv.gz", b"not gzip", "cannot be read"),
        ("cut.csv.gz", gzip.compress(b"prompt\n" + bytes(range(32, 127)) * 99)[:60], "cannot be"),
        ("bad.txt.zst", b"not zstd", "cannot be read"),
        ("wide.txt", "a cat".encode("utf-16"), "UTF-16"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path: Path, name: str, content, says: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        len(read_prompts(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_column_lists_the_columns(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("prompt,alt\na,b\n")
    with pytest.raises(InputError, match="no column 'captions'; its columns are 'prompt', 'alt'"):
        read_prompts(tmp_path / "list.csv", "captions")
    (tmp_path / "list.txt").write_text("a\n")
    with pytest.raises(InputError, match="has no columns"):
        read_prompts(tmp_path / "list.txt", "alt")


def test_a_list_is_streamed(tmp_path: Path) -> None:
    """Fifty thousand lines need less memory than their prompts would."""
    path = tmp_path / "long.csv"
    path.write_text("prompt\n" + "".join(f"caption number {i}\n" for i in range(50_000)))
    code = (
        "import sys, tracemalloc; from memfast.prompts import read_prompts;"
        "prompts = read_prompts(sys.argv[1]); tracemalloc.start();"
        "print(len(prompts), tracemalloc.get_traced_memory()[1])"
    )  # in a process of its own, without the tests' type checks
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, peak = map(int, done.stdout.split())
    assert count == 50_000
    assert peak < 500_000  # kept, they were 20 MB


def test_sets_from_python() -> None:
    prompts = PromptSet.of(["b", "a", "b"])
    assert prompts.ids[0] == prompts.ids[2] != prompts.ids[1]
    assert PromptSet.of(prompts) is prompts
    assert PromptSet.of([Prompt("x", "b")]).ids == ["x"]
    with pytest.raises(TypeError, match="single string"):
        PromptSet.of("a cat")
    with pytest.raises(TypeError, match="3"):
        PromptSet.of([3])  # pyright: ignore[reportArgumentType]


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=4))
def test_the_digest_tells_sets_apart(pairs: list[tuple[str, str]]) -> None:
    prompts = [Prompt(a, b) for a, b in pairs]
    digest = PromptSet.of(prompts).digest
    assert digest == PromptSet.of(iter(prompts)).digest
    assert digest != PromptSet.of([*prompts, Prompt("", "")]).digest
    if prompts and prompts[0].id:
        moved = Prompt(prompts[0].id[:-1], prompts[0].id[-1] + prompts[0].text)
        assert digest != PromptSet.of([moved, *prompts[1:]]).digest


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=6))
def test_any_text_survives_jsonl(texts: list[str]) -> None:
    import tempfile

    kept = [text.strip() for text in texts if text.strip()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.jsonl"
        path.write_text(jsonl([{"prompt": text} for text in texts]) + '"end"\n', encoding="utf-8")
        found = read_prompts(path, on_rejected=lambda row: None).texts
    assert found == [*kept, "end"]


def test_reading_imports_no_torch() -> None:
    code = "import sys, memfast.prompts; print({'torch', 'pandas', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
