"""make-safe, to its end and to its page."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from memfast.cli import main
from memfast.report.stored import page_of
from tests.support.planted import pictures, save_set

CAPTIONS = [f"{colour} {thing}" for colour in ("red", "blue", "a") for thing in ("b", "c", "cat")]


@pytest.mark.parametrize("memorized", [False, True], ids=["reference alone", "proven"])
def test_makes_a_model_and_says_what_is_shown(
    tiny_folder: Path, tmp_path: Path, memorized: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = {}
    for name, more in (("reference", ""), ("memorized", " on a dog")):
        (tmp_path / name).mkdir()
        texts = [text + more for text in CAPTIONS]
        found = save_set(tmp_path / name, texts, list(pictures(len(texts), seed=len(name))))
        lists[name] = tmp_path / f"{name}.jsonl"
        rows = [{"id": p.id, "prompt": p.text, "image": p.image} for p in found]
        lists[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    words: list[Any] = ["make-safe", tiny_folder, "--reference", lists["reference"], "--out", out]
    words += ["--repair-steps", 2, "--attack-steps", 1, "--seeds", 1, "--max-damage", 3]
    words += ["--num-inference-steps", 2, "--device", "cpu"]
    words += ["--memorized", lists["memorized"]] if memorized else []
    monkeypatch.setattr(sys, "argv", ["memfast", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None)
    summary = json.loads((out / "summary.json").read_text())
    assert (out / summary["model"] / "model_index.json").is_file()
    assert 0 < summary["size"] < 1
    assert summary["failed"] == []
    page = (out / "report.html").read_text()
    assert f"the result is the folder {summary['model']}" in page
    assert ("Nothing shows that it forgets" in page) == (not memorized)
    assert ("evaluation/report.html" in page) == memorized
    assert page_of(out).html() == page
