"""Files of our own, cut or edited: what was written, or one line that names the file."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from memfast_kernels import Moments

from memfast.files import Ledger, load_tensors, read_record, save_tensors, write_record
from memfast.selection import Subspace
from memfast.statistics import NeuronStatistics
from tests.fuzz.budget import damaged, fuzzed, refused

VALUE = {"a": [1, 0.5, None, "ü"], "b": {"c": True}}


def statistics(path: Path) -> None:
    moments = [Moments.empty(3, 2) for _ in range(2)]
    header = {"prompts": 2, "prompt_ids": ["a", "b"]}
    NeuronStatistics({"s": moments[0]}, header, norms={"s": moments[1]}).save(path)


def subspace(path: Path) -> None:
    mask = torch.tensor([True, False])
    Subspace({"s": mask}, mean={"s": torch.ones(2)}, header={"rule": "x"}).save(path)


WRITERS = {
    "record": lambda path: write_record(path, "thing", 1, VALUE, run="r"),
    "tensors": lambda path: save_tensors(
        path, {"a": torch.arange(3.0)}, {"kind": "thing", "format": 1, "run": "r"}
    ),
    "statistics": statistics,
    "subspace": subspace,
}
READERS = {
    "record": lambda path: read_record(path, "thing", 1, "r"),
    "tensors": lambda path: load_tensors(path, "thing", 1, run="r"),
    "statistics": NeuronStatistics.load,
    "subspace": Subspace.load,
}


def written(kind: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        WRITERS[kind](Path(folder) / "f")
        return (Path(folder) / "f").read_bytes()


WHOLES = {kind: written(kind) for kind in WRITERS}


def read(kind: str, content: bytes) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f"
        path.write_bytes(content)
        return refused(lambda: READERS[kind](path), str(path))


@fuzzed(300, kind=st.sampled_from(list(WRITERS)), change=st.data())
def test_damaged_files_of_ours(kind: str, change: st.DataObject) -> None:
    content = change.draw(damaged(st.just(WHOLES[kind])))
    found = read(kind, content)
    if kind == "record" and found is not None:
        assert found == VALUE  # by whatever spelling: an edit is found
    if kind == "tensors" and found is not None:
        assert torch.equal(found[0]["a"], torch.arange(3.0))


HEADERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kind", "format", "sites", "skipped", "selects", "prompts", "run"]),
            inner | st.sampled_from(["statistics", "subspace", "neurons", ["s"], "s", 1]),
            max_size=7,
        )
    ),
    max_leaves=12,
)


@fuzzed(
    200,
    kind=st.sampled_from(["tensors", "statistics", "subspace"]),
    header=HEADERS,
    names=st.sets(st.sampled_from(["mask/s", "mean/s", "rows/s/mean", "rows/s/count"])),
    shape=st.lists(st.integers(0, 3), max_size=3),
    boolean=st.booleans(),
)
def test_any_header(kind: str, header: object, names: set[str], shape: list[int], boolean: bool):
    """Any header over any tensors."""
    from safetensors.torch import save

    if isinstance(header, dict):
        header = {"kind": kind, "format": 1, "sites": ["s"], "selects": "neurons"} | header
    tensors = {name: torch.ones(shape, dtype=torch.bool if boolean else None) for name in names}
    read(kind, save(tensors, {"memfast": json.dumps(header)}))


LEDGERS = st.sampled_from(
    [b"memfast audit\nblocks/block-1/\nmanifest.json/", b"memfast audit\n\0blocks/block-1/"]
)


@fuzzed(80, content=damaged(LEDGERS))
def test_any_ledger(content: bytes) -> None:
    """Nothing outside the folder, and no folder, is ever deleted."""
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / "out"
        inside.mkdir()
        (Path(folder) / "beside").touch()
        ledger = Ledger(inside, "audit")
        ledger.path.write_bytes(content)
        refused(ledger.clear, folder)
        assert inside.is_dir()
        assert (Path(folder) / "beside").exists()
