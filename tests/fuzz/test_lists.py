"""Prompt lists of any bytes: prompts, rejected rows, or one line that names the file."""

import gzip
import json
import tempfile
from pathlib import Path

from hypothesis import strategies as st

from memfast.limits import DEFAULT
from memfast.prompts import Prompt, Rejected, clashing_ids, read_prompts
from tests.fuzz.budget import damaged, fuzzed, refused

WORDS = st.text(max_size=8) | st.sampled_from(['"', "a\nb", "'", "=1", "nan", "0.0", "\t", "x;y"])
NUMBERS = st.integers() | st.floats() | st.booleans() | st.none()
NAMES = st.sampled_from(["prompt", "caption", "id", "seed", "label", "group", "image", "x", ""])
VALUES = st.recursive(
    NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=6)
DOCUMENTS = VALUES | OBJECTS | st.lists(OBJECTS, max_size=6) | st.lists(WORDS, max_size=6)


def table(rows: list[list[str]], mark: str, quoted: bool) -> bytes:
    cells = [[f'"{c}"' if quoted else c for c in row] for row in rows]
    return "\n".join(map(mark.join, cells)).encode("utf-8", "surrogatepass")


TABLES = st.builds(
    lambda head, rows, mark, quoted: table([head, *rows], mark, quoted),
    st.lists(NAMES, min_size=1, max_size=4),
    st.lists(st.lists(WORDS, max_size=4), max_size=8),
    st.sampled_from(",;\t|"),
    st.booleans(),
)
JSON = st.builds(lambda value: json.dumps(value).encode(), DOCUMENTS)
LINES = st.builds(
    lambda rows: "\n".join(map(json.dumps, rows)).encode(), st.lists(OBJECTS | WORDS, max_size=6)
)
TEXT = st.binary(max_size=60) | TABLES | JSON | LINES
SMALL = DEFAULT.changed(["line=200", "word=20", "caption=100", "cells=6", "values=40"])


def read(path: Path) -> tuple[list[Prompt], list[Rejected]]:
    rejected: list[Rejected] = []
    prompts = read_prompts(path, on_rejected=rejected.append, limits=SMALL)
    clashing_ids(prompts)
    rejected.clear()
    return [prompt for prompt in prompts], rejected


def check(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        prompts, rejected = refused(lambda: read(path), str(path)) or ([], [])
        assert repr(refused(lambda: read(path), str(path)) or ([], [])) == repr((prompts, rejected))
    for prompt in prompts:
        assert 0 < len(prompt.text) <= SMALL.caption
        assert prompt.text == prompt.text.strip()
        assert prompt.seed is None or 0 <= prompt.seed < 2**63
        for word in (prompt.id, prompt.text, prompt.label, prompt.group, prompt.image):
            (word or "").encode()  # nothing that cannot be written later
        assert prompt.identity
    for row in rejected:
        assert row.line > 0
        (row.reason + row.start).encode()


@fuzzed(
    250,
    name=st.sampled_from(["l.txt", "l.csv", "l.tsv", "l.json", "l.jsonl"]),
    content=TEXT | damaged(TEXT),
)
def test_any_text(name: str, content: bytes) -> None:
    check(name, content)


@fuzzed(
    60,
    name=st.sampled_from(["l.txt.gz", "l.csv.gz", "l.json.gz", "l.jsonl.zst", "l.csv.zst"]),
    content=TEXT,
    change=st.data(),
)
def test_anything_packed(name: str, content: bytes, change: st.DataObject) -> None:
    import pyarrow as pa

    packed = (
        gzip.compress(content)
        if name.endswith(".gz")
        else pa.Codec("zstd").compress(content, asbytes=True)
    )
    check(name, change.draw(damaged(st.just(packed))))


@fuzzed(100, rows=st.lists(st.lists(WORDS.filter(str.strip), min_size=2, max_size=2), max_size=6))
def test_csv_comes_back(rows: list[list[str]]) -> None:
    """What the standard library writes as CSV is read as it was, or told to be too long."""
    import csv

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "l.csv"
        with open(path, "w", newline="", encoding="utf-8", errors="surrogatepass") as file:
            csv.writer(file).writerows([["prompt", "x"], *rows, ["end", ""]])
        rejected: list[Rejected] = []
        found = read_prompts(path, on_rejected=rejected.append).texts
    expected = [row[0].strip() for row in rows]
    assert [*expected, "end"] == found or rejected


@fuzzed(60, settings=st.lists(st.text(max_size=12) | st.sampled_from(["rows=3", "rows=1e400"])))
def test_any_setting_of_limits(settings: list[str]) -> None:
    refused(lambda: DEFAULT.changed(settings), "--limit")
