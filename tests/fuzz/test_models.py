"""Model folders, damaged or edited: a pipeline that runs, or one line that names the folder."""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import load, save

from memfast.cli.options import open_pipeline
from memfast.pipelines.drivers.table import driver_of
from tests.fuzz.budget import damaged, fuzzed, refused
from tests.support.tiny.table import build


@cache
def files() -> dict[str, bytes]:
    """{relative path: content} of a tiny pipeline's folder."""
    with tempfile.TemporaryDirectory() as folder:
        build("sd-v").save_pretrained(folder)
        found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in found}


VALUES = st.sampled_from(
    [None, True, 0, -1, 7, 10**9, 1e400, "", "x", [], {}, [None, "UNet2DModel"], "memfast", "../x"]
)


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    keys: Any = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        found.append((value, key))
        if isinstance(value[key], dict | list):
            _places(value[key], found)
    return found


@st.composite
def edited(draw: st.DrawFn) -> tuple[str, bytes | None]:
    """One file of the folder with a change; None where it is gone."""
    name = draw(st.sampled_from(list(files())))
    whole = files()[name]
    how = draw(st.sampled_from(["gone", "damage", "edit", "edit", "edit"]))
    if how == "gone":
        return name, None
    if how == "edit" and name.endswith(".json"):
        value = json.loads(whole)
        if not value or draw(st.integers(0, 20)) == 0:
            return name, json.dumps(draw(VALUES)).encode()
        container, key = draw(st.sampled_from(_places(value, [])))
        if draw(st.booleans()):
            del container[key]
        else:
            container[key] = draw(VALUES)
        return name, json.dumps(value).encode()
    if how == "edit" and name.endswith(".safetensors"):
        tensors = load(whole)
        key = draw(st.sampled_from(sorted(tensors)))
        tensor = tensors.pop(key)
        match draw(st.sampled_from(["lost", "shape", "renamed"])):
            case "shape":
                tensors[key] = torch.zeros(*tensor.shape, 2)
            case "renamed":
                tensors[f"{key}.x"] = tensor
        return name, save(tensors)
    return name, draw(damaged(st.just(whole)))


@fuzzed(20, change=edited())
def test_any_model_folder(change: tuple[str, bytes | None]) -> None:
    name, content = change
    with tempfile.TemporaryDirectory() as folder:
        for other, whole in files().items():
            path = Path(folder) / other
            path.parent.mkdir(exist_ok=True)
            if other != name or content is not None:
                path.write_bytes(whole if other != name or content is None else content)
        pipeline = refused(lambda: open_pipeline(folder), folder)
        if pipeline is not None:
            with torch.no_grad():
                driver = driver_of(pipeline)
                told = driver.encode(["a cat"])
                driver.predict(driver.initial_noise(["x"], 0), driver.path.time_of(0.5), told)
