"""`memfast demo` on a few prompts of the embedded model: its files, and what they claim."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from memfast.attacks.embeddings import AttackSettings
from memfast.blocks.sizes import parameters
from memfast.cli import main
from memfast.demo import DATA, arms, experiment
from memfast.prompts import read_prompts


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_demo_writes_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "JUDGES", 8)
    monkeypatch.setattr(experiment, "ATTACK", AttackSettings((3,), draws=1))
    monkeypatch.setattr(experiment, "time_per_image", partial(arms.time_per_image, repeats=1))
    out = tmp_path / "out"
    arguments = ["demo", "--out", str(out), "--memorized", "8", "--singles", "4", "--attacked", "1"]
    arguments += ["--erase-steps", "2"]
    monkeypatch.setattr(sys, "argv", ["memfast", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    summary = json.loads((out / "summary.json").read_text())
    controls = {"random control", "random, equal damage"}
    assert set(summary["arms"]) == {"original", "compact", "erased", "contrast", *controls}
    assert not list(tmp_path.glob("*.unfinished"))
    assert set(summary["attacks"]) == {"original", "compact", "erased"}
    assert summary["damage"] <= 1.02 < summary["damage_erased"]
    assert summary["arms"]["original"]["singles_ssim"]["value"] == pytest.approx(1)
    assert summary["neurons_after"] < summary["neurons_before"]
    page = (out / "report.html").read_text()
    assert page.count("<figure><button") == 8 * 7 + 4 * 6
    reloaded = DiffusionPipeline.from_pretrained(out / "model")
    parameters = sum(p.numel() for p in reloaded.unet.parameters())
    assert parameters == summary["parameters_after"]


def test_demo_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made is not made again, and comes to the same."""
    words = ["memfast", "demo", "--memorized", "4", "--singles", "2", "--attacked", "0"]

    monkeypatch.setattr(experiment, "JUDGES", 2)
    monkeypatch.setattr(experiment, "time_per_image", lambda *_: {"before": 2.0, "after": 1.0})

    def run(out: Path) -> int:
        monkeypatch.setattr(sys, "argv", [*words, "--out", str(out)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(str(stop.value.code))

    painted: list[int] = []

    def paint(pipeline: Any, cases: Any, advance: Any) -> torch.Tensor:
        painted.append(parameters(pipeline.unet))
        if len(painted) == stop_at:
            raise KeyboardInterrupt
        generator = torch.Generator().manual_seed(painted[-1])
        return torch.rand(len(arms.SEEDS), len(cases), 3, 32, 32, generator=generator)

    monkeypatch.setattr(experiment, "generate", paint)
    stop_at = 0
    assert run(tmp_path / "whole") == 0
    assert len(painted) == 2 * 5
    stop_at, painted[:] = 4, []
    assert run(tmp_path / "out") == 130
    assert run(tmp_path / "out") == 0
    assert len(painted) == 4 + 2 * 5 - 2  # one of the five models had been painted
    found = [
        json.loads((tmp_path / name / "summary.json").read_text())["arms"]
        for name in ("whole", "out")
    ]
    assert found[0] == found[1]


def test_demo_sets_share_no_caption_and_have_their_pictures() -> None:
    seen: set[str] = set()
    for name in ("memorized", "templates", "singles", "heldout"):
        prompts = list(read_prompts(DATA / f"{name}.jsonl"))
        texts = {prompt.text for prompt in prompts}
        assert not texts & seen
        seen |= texts
        assert all(Path(str(prompt.image)).is_file() for prompt in prompts)
