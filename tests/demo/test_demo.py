"""`memfast demo` on a few prompts of the embedded model: its files, and what they claim."""

import json
import sys
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

from memfast.cli import main
from memfast.demo import DATA
from memfast.prompts import read_prompts


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_demo_writes_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    arguments = ["demo", "--out", str(out), "--memorized", "8", "--singles", "4", "--attacked", "1"]
    arguments += ["--erase-steps", "2"]
    monkeypatch.setattr(sys, "argv", ["memfast", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["arms"]) == {"original", "compact", "erased", "contrast", "random control"}
    assert set(summary["attacks"]) == {"original", "compact", "erased"}
    assert summary["damage"] <= 1.02 < summary["damage_erased"]
    assert summary["arms"]["original"]["singles_ssim"]["value"] == pytest.approx(1)
    assert summary["neurons_after"] < summary["neurons_before"]
    page = (out / "report.html").read_text()
    assert page.count("<figure><button") == 8 * 6 + 4 * 5
    reloaded = DiffusionPipeline.from_pretrained(out / "model")
    parameters = sum(p.numel() for p in reloaded.unet.parameters())
    assert parameters == summary["parameters_after"]


def test_demo_sets_share_no_caption_and_have_their_pictures() -> None:
    seen: set[str] = set()
    for name in ("memorized", "templates", "singles", "heldout"):
        prompts = list(read_prompts(DATA / f"{name}.jsonl"))
        texts = {prompt.text for prompt in prompts}
        assert not texts & seen
        seen |= texts
        assert all(Path(str(prompt.image)).is_file() for prompt in prompts)
