"""Rows by the letter: a bad one costs itself alone, and what a cell may be is the same anywhere."""

import gzip
import json
import sys
from pathlib import Path

import pytest

from memfast.errors import InputError
from memfast.limits import DEFAULT, Limits
from memfast.prompts import Prompt, PromptSet, Rejected, clashing_ids, read_prompts


def read(path: Path, **how) -> tuple[list[Prompt], list[Rejected]]:
    rejected: list[Rejected] = []
    prompts = read_prompts(path, on_rejected=rejected.append, **how)
    return [prompt for prompt in prompts], rejected  # list() would also ask for the length


def of(tmp_path: Path, name: str, content: str | bytes, **how) -> tuple[list[str], list[int]]:
    """The captions, and the lines of the rows left out."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    prompts, rejected = read(path, **how)
    return [prompt.text for prompt in prompts], [row.line for row in rejected]


def test_a_stray_quote_costs_its_own_line(tmp_path: Path) -> None:
    rows = [f"caption {i}" for i in range(300)]
    text = "\n".join(["prompt", '"5 inch screw', *rows])
    assert of(tmp_path, "a.csv", text) == (rows, [2])
    assert of(tmp_path, "b.tsv", text) == (['"5 inch screw', *rows], [])


@pytest.mark.parametrize(
    ("content", "texts", "lines"),
    [
        ('p,prompt\n1,"a\n\nb"\n2,c\n', ["a\n\nb", "c"], []),  # a row of several lines
        ('prompt\n"a" b\nc\n', ["c"], [2]),
        ('prompt\n"a\n"b" c\nd\n', ["d"], [2, 3]),
        ('prompt\na "b"\n', ['a "b"'], []),  # as written: no quote opens the cell
        ("prompt,n\na\nb,1\nc,2,3\n\n,4\nd,5\n", ["b", "d"], [2, 4, 6]),
        ('prompt\na\n"', ["a"], [3]),
        ('prompt\r"a\rb"\rc\r', ["a\rb", "c"], []),
        ("prompt,prompt\na,b\n", ["a"], []),
        ('prompt,n\na,1\n"' + "x" * 200_000 + '",2\nb,3', ["a", "b"], [3]),
        ("prompt\n" + "y" * 2_000_000 + "\nb", ["b"], [2]),
    ],
)
def test_csv_by_the_letter(tmp_path: Path, content: str, texts, lines) -> None:
    assert of(tmp_path, "list.csv", content) == (texts, lines)
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress(content.encode()))
    assert [p.text for p in read(tmp_path / "packed.csv.gz")[0]] == texts


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("l.csv", ["prompt", "good", 'a,"b', '"5 inch', '"' + "x" * 2_000_000]),
        ("l.tsv", ["prompt", "good", "a\tb"]),
        ("l.jsonl", ['"good"', "{no", '{"prompt": 3}', "[1]"]),
        ("l.txt", ["good", "y" * 2_000_000]),
    ],
)
def test_a_rejected_row_shows_how_it_begins(tmp_path: Path, name: str, rows: list[str]) -> None:
    (tmp_path / name).write_text("\n".join(rows))
    for row in read(tmp_path / name)[1]:
        began = rows[row.line - 1]
        assert 0 < len(row.start) <= 80
        assert {c for c in row.start if c.isalnum()} & {c for c in began if c.isalnum()}


def test_a_head_that_is_not_csv_ends_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 1: the head cannot be used"):
        of(tmp_path, "list.csv", "prompt," + "x" * 200_000 + "\na,b\n")
    with pytest.raises(InputError, match="limit cells"):
        of(tmp_path, "list.tsv", "\t".join(f"c{i}" for i in range(2_000)))


@pytest.mark.parametrize(
    ("seed", "is_"),
    [
        (42, 42),
        (42.0, 42),
        ("42", 42),
        (" 42.0 ", 42),
        (0, 0),
        (2**63 - 1, 2**63 - 1),
        (None, None),
        ("", None),
        (float("nan"), None),
        (float("inf"), "not an integer"),
        (1e300, "outside"),
        (-1, "outside"),
        (2**63, "outside"),
        (10**400, "outside"),
        (4.5, "not an integer"),
        (True, "not an integer"),
        ("4_2", "not an integer"),
        ("9" * 5_000, "not an integer"),
        ([1], "not an integer"),
    ],
)
def test_seeds(tmp_path: Path, seed, is_) -> None:
    rows = [{"prompt": "a", "seed": seed}, {"prompt": "b", "seed": 1}]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prompts, rejected = read(tmp_path / "list.jsonl")
    if isinstance(is_, str):
        assert [p.text for p in prompts] == ["b"]
        assert is_ in rejected[0].reason
        assert len(rejected[0].reason) < 100
    else:
        assert [p.seed for p in prompts] == [is_, 1]


def test_labels_are_compared_as_numbers_and_nan_is_none(tmp_path: Path) -> None:
    labels = [0, 0.0, "0", "0.0", "00.", 1, 1.0, "1.0", -2.0, 0.5, True, "VM", None, "", "nan"]
    rows = [{"prompt": f"p{i}", "label": label} for i, label in enumerate(labels)]
    (tmp_path / "list.json").write_text(json.dumps([*rows, {"prompt": "x", "label": float("nan")}]))
    prompts = read_prompts(tmp_path / "list.json")
    found = [prompt.label for prompt in prompts]
    assert found[:9] == ["0", "0", "0", "0", "00", "1", "1", "1", "-2"]
    assert found[9:] == ["0.5", "True", "VM", None, None, None, None]
    assert prompts.notes == {"label is NaN": 2}
    list(prompts)
    assert prompts.notes == {"label is NaN": 2}  # of one iteration


@pytest.mark.parametrize("field", ["id", "label", "group", "image"])
def test_what_is_not_utf8_is_rejected_where_it_is_read(tmp_path: Path, field: str) -> None:
    content = b"prompt," + field.encode() + b"\na,caf\xe9\nb,\xed\xa0\x80\nc,ok\n"
    assert of(tmp_path, "list.csv", content) == (["c"], [2, 3])
    rows = f'{{"prompt": "a", "{field}": "\\ud800"}}\n{{"prompt": "b", "{field}": "ok"}}\n'
    assert of(tmp_path, "list.jsonl", rows) == (["b"], [1])


@pytest.mark.parametrize("field", ["id", "label", "group"])
@pytest.mark.parametrize("value", ["x" * 1_001, [], {"a": 1}, float("inf")])
def test_words_are_words(tmp_path: Path, field: str, value) -> None:
    rows = json.dumps({"prompt": "a", field: value}) + '\n{"prompt": "b"}'
    assert of(tmp_path, "list.jsonl", rows) == (["b"], [1])


def test_images_are_paths(tmp_path: Path) -> None:
    values = ["a.png", "/b.png", "http://c/d.png", {"path": "e.png", "bytes": None}, 3, None]
    rows = [{"prompt": "a", "image": value} for value in [*values, "a\0b", "x" * 5_000]]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rejected: list[Rejected] = []
    prompts = read_prompts(tmp_path / "list.jsonl", on_rejected=rejected.append)
    here = [str(tmp_path / "a.png"), "/b.png", "http://c/d.png", str(tmp_path / "e.png")]
    assert [prompt.image for prompt in prompts] == [*here, None, None]
    assert prompts.notes == {"image is no path": 1}
    assert [row.line for row in rejected] == [7, 8]


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"prompt": ' + "[" * 100_000,
        '{"prompt": "a", "seed": ' + "9" * 5_000 + "}",
        json.dumps({f"k{i}": 1 for i in range(2_000)}),
        '{"x": 1}',
        '"\\ud800"',
        "null",
    ],
)
def test_a_bad_line_of_json_is_not_the_end(tmp_path: Path, line: str) -> None:
    assert of(tmp_path, "list.jsonl", f'{line}\n{{"prompt": "b"}}') == (["b"], [1])


def test_a_list_without_a_column_says_which_it_has(tmp_path: Path) -> None:
    for rows in ('{"x": 1}\n', '{"x": 1}\n' * 3_000):
        with pytest.raises(InputError, match="--column: 'x'"):
            of(tmp_path, "list.jsonl", rows)


@pytest.mark.parametrize(
    ("setting", "name", "content", "says"),
    [
        ("rows=2", "a.txt", "a\nb\nc\n", "more than 2 rows"),
        ("document=20", "a.json", json.dumps(["a" * 30]), "more than 20 bytes"),
        ("values=2", "a.json", json.dumps(["a", "b", "c"]), "more than 2 values"),
        ("document=4096", "a.txt", "a" * 3_000_000, "line 1: more than 4096 characters"),
        ("document=4096", "a.csv", "prompt\n" + "a" * 3_000_000, "line 2: more than 4096"),
    ],
)
def test_limits_can_be_set(tmp_path: Path, setting: str, name: str, content: str, says) -> None:
    with pytest.raises(InputError, match=says):
        of(tmp_path, name, content, limits=DEFAULT.changed([setting]))


def test_settings_of_limits() -> None:
    assert DEFAULT.changed(["pixels=2e8", "rows=3"]) == Limits(pixels=200_000_000, rows=3)
    for wrong in ("pixels", "pixels=0", "pixels=nan", "pixels=inf", "breadth=3", "pixels=1e30"):
        with pytest.raises(InputError, match="NAME one of line"):
            DEFAULT.changed([wrong])


@pytest.mark.parametrize("name", ["list.csv.gz", "list.json.gz", "list.jsonl.gz", "list.txt.gz"])
def test_a_bomb_needs_no_memory(tmp_path: Path, name: str) -> None:
    """300 MB without a line's end, packed in one; read in a process that is measured."""
    import subprocess

    with gzip.open(tmp_path / name, "wb", 1) as file:
        file.write(b'["' if ".json." in name else b"prompt\n")
        for _ in range(300):
            file.write(b"a" * (1 << 20))
    code = (
        "import resource, sys; from memfast.prompts import read_prompts; limit = 400 << 20;"
        "resource.setrlimit(resource.RLIMIT_DATA, (limit, limit));"
        "len(read_prompts(sys.argv[1], on_rejected=lambda row: None))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "InputError" in done.stderr.splitlines()[-1]
    assert "limit document" in done.stderr.splitlines()[-1]


def test_no_file_that_blocks(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "list.txt")
    for path in (tmp_path / "list.txt", Path("/dev/null")):
        with pytest.raises(InputError, match="neither a file nor a folder"):
            read_prompts(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(tmp_path / ("x" * 300))


def test_a_row_with_a_seed_has_that_noise() -> None:
    from hashlib import blake2b

    plain, own = Prompt("i", "a"), Prompt("i", "a", seed=7)
    derived = int.from_bytes(blake2b(b"5\0i", digest_size=8).digest(), "little") >> 1
    assert plain.noise_seed(5) == plain.noise_seed(3, 2) == derived
    assert own.noise_seed(5) == own.noise_seed(6) == 7
    assert len({own.noise_seed(0, draw) for draw in range(100)}) == 100
    assert PromptSet.of([plain]).digest != PromptSet.of([own]).digest


def test_the_derived_noise_is_the_models_own() -> None:
    from memfast.pipelines.noise import generator

    assert generator("i", 5).initial_seed() == Prompt("i", "a").noise_seed(5)


def test_prompts_from_python_are_checked() -> None:
    for wrong in ("a\ud800", Prompt("\ud800", "a"), Prompt("i", "a", seed=-1)):
        with pytest.raises(InputError, match=r"prompts\[1\]"):
            PromptSet.of(["a", wrong])


def test_ids_of_two_captions() -> None:
    given = [("i", "a"), ("j", "b"), ("i", "a"), ("k", "c"), ("j", "d"), ("j", "e"), ("l", "a")]
    prompts = [Prompt(id, text) for id, text in given]
    assert clashing_ids(PromptSet.of(prompts)) == {"j": (prompts[1], prompts[4])}
    assert clashing_ids(PromptSet.of(prompts[:4])) == {}
    assert clashing_ids(PromptSet.of([])) == {}


def test_the_documented_limits_are_the_limits() -> None:
    from dataclasses import fields

    page = (Path(__file__).parents[1] / "docs" / "trust.md").read_text(encoding="utf-8")
    rows = [f"| `{f.name}` | {f.default:,} | {f.metadata['what']} |" for f in fields(Limits)]
    assert "\n".join(rows) in page


def test_an_error_can_always_be_printed(tmp_path: Path) -> None:
    names = ["a\nb", "a\x1b[31mb", "a\u2028b", "a\udcffb"]
    for name in names:
        with pytest.raises(InputError) as caught:
            read_prompts(tmp_path / name)
        assert str(caught.value).isprintable()
