"""Parquet and arrow files: of any type, and damaged."""

import io
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from memfast.limits import DEFAULT
from memfast.prompts import read_prompts
from memfast.prompts.sources.cells import cells
from tests.fuzz.budget import damaged, fuzzed, refused
from tests.fuzz.test_lists import check

TYPES = st.sampled_from(
    [
        *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.null(), pa.bool_()),
        *(pa.int8(), pa.uint64(), pa.float16(), pa.float64(), pa.decimal128(9, 2)),
        *(pa.date32(), pa.date64(), pa.time64("ns"), pa.timestamp("s"), pa.timestamp("ns", "UTC")),
        *(pa.duration("us"), pa.month_day_nano_interval(), pa.list_(pa.int32())),
        *(pa.dictionary(pa.int8(), pa.string()), pa.map_(pa.string(), pa.int8())),
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    ]
)


@fuzzed(150, kind=TYPES, content=st.binary(min_size=64, max_size=64), rows=st.integers(0, 3))
def test_cells_of_any_type(kind: pa.DataType, content: bytes, rows: int) -> None:
    """Cells of fixed width made of any bytes, and nulls of every type, become plain values."""
    column = pa.nulls(rows, kind)
    if pa.types.is_primitive(kind) and not pa.types.is_boolean(kind):
        column = pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(content)])
    found = list(cells(column, DEFAULT))
    plain = (str, int, float, bool, type(None), ValueError, list, dict)
    assert len(found) == rows
    assert all(isinstance(value, plain) for value in found)


def whole(kind: str) -> bytes:
    table = pa.table(
        {
            "prompt": ["a cat", "a dog", "naïve"],
            "label": pa.array(["a", None, "b"]).dictionary_encode(),
            "seed": [1.0, 2.0, None],
            "image": [{"bytes": b"x", "path": "p"}, None, {"bytes": None, "path": "p"}],
        }
    )
    target = io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, target)
    else:
        make = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        with make(target, table.schema) as writer:
            writer.write_table(table)
    return target.getvalue()


WHOLES = {kind: whole(kind) for kind in ("parquet", "file", "stream")}


@fuzzed(6, kind=st.sampled_from(list(WHOLES)), change=st.data())
def test_damaged_tables(kind: str, change: st.DataObject) -> None:
    """A start of a process each."""
    name = "t.parquet" if kind == "parquet" else "t.arrow"
    check(name, change.draw(damaged(st.just(WHOLES[kind]))))


@fuzzed(80, state=st.binary(max_size=20) | st.sampled_from([b"{}", b"[]", b'{"splits": [1]}']))
def test_any_state_of_a_dataset(state: bytes) -> None:
    """state.json and dataset_dict.json of any content."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("state.json", "dataset_dict.json"):
            path = Path(folder) / name
            path.write_bytes(state)
            (Path(folder) / "list.txt").write_text("a\n")
            texts = refused(lambda: read_prompts(folder).texts, folder)
            assert texts in (None, ["a"])
            path.unlink()
