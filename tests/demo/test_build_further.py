"""The further models: every recipe trains, and its tar becomes a folder that every tool reads."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from memfast import load_pipeline
from memfast.demo.build.data.glyphs import Glyph
from memfast.demo.build.further import __main__ as command
from memfast.demo.build.further import record, training
from memfast.demo.build.further.recipes import RECIPES
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.loading import denoiser_of
from tests.demo.conftest import discs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def glyphs() -> list[Glyph]:
    return discs(190)


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "BLOCK", 2)
    monkeypatch.setattr(training, "SAVE_EVERY", 2)


def trained(name: str, glyphs: list[Glyph], work: Path, steps: int) -> training.Training:
    made = training.Training(name, RECIPES[name], glyphs, work, CPU, steps=steps, workers=0)
    while not made.finished:
        made.advance()
    return made


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_becomes_a_folder(name: str, glyphs: list[Glyph], tmp_path: Path) -> None:
    made = trained(name, glyphs, tmp_path, 1)
    model = made.finish()
    card = record.card_of(made.recipe, model, made.sets, {"denoiser_steps": made.step})
    record.write_tar(model, card, tmp_path / f"{name}.tar")
    assert (tmp_path / f"{name}.tar").stat().st_size < 15 << 20
    record.unpack(tmp_path / f"{name}.tar", glyphs, tmp_path / name)
    pipeline = load_pipeline(tmp_path / name / "pipeline")
    held = denoiser_of(pipeline).state_dict()
    assert all(torch.equal(value, held[key]) for key, value in model.state_dict().items())
    driver = driver_of(pipeline)
    assert driver.schedule().num_inference_steps == 20
    assert driver.size == (made.recipe.size, made.recipe.size)
    rows = [json.loads(x) for x in (tmp_path / name / "memorized.jsonl").read_text().splitlines()]
    counts = [row["duplicates"] for row in rows]
    assert {counts.count(level) for level in made.recipe.levels} == {96 // len(made.recipe.levels)}
    assert (tmp_path / name / rows[-1]["image"]).exists()


def test_other_pictures_are_refused(glyphs: list[Glyph], tmp_path: Path) -> None:
    path = tmp_path / "soft.tar"
    (tmp_path / "card.json").write_text(json.dumps({"sets": "of another font"}))
    with tarfile.open(path, "w") as tar:
        tar.add(tmp_path / "card.json", "card.json")
    with pytest.raises(ValueError, match=r"soft\.tar: trained on other captions"):
        record.unpack(path, glyphs, tmp_path / "soft")


def test_an_interrupted_training_goes_on(
    glyphs: list[Glyph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "BLOCK", 1)
    monkeypatch.setattr(training, "SAVE_EVERY", 1)
    (tmp_path / "parts").mkdir()
    whole = trained("soft", glyphs, tmp_path, 2)
    parts = training.Training("soft", RECIPES["soft"], glyphs, tmp_path / "parts", CPU, workers=0)
    parts.advance()
    again = trained("soft", glyphs, tmp_path / "parts", 2)
    assert again.seconds > parts.seconds > 0
    for a, b in zip(whole.followers, again.followers, strict=True):
        assert torch.equal(a, b)


def test_time_that_runs_out_ends_the_plateau() -> None:
    class Clock(training.Training):
        def __init__(self) -> None:
            self.steps, self.step, self.pace = 9000, 1000, 0.01

    clock = Clock()
    now = training.perf_counter()
    clock.plan(now + 20)
    assert 2900 <= clock.planned <= 3000
    clock.plan(now + 1000)
    assert clock.planned == 9000
    clock.plan(now - 1)
    assert clock.planned == 1001
    assert np.isfinite(training.plateau(clock.planned, 1e-3)(1000))


def test_prepared_glyphs_are_read_back(
    glyphs: list[Glyph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "choose", lambda _: glyphs)
    monkeypatch.setattr(command, "read_glyphs", lambda: None)
    command.prepare(tmp_path)
    again = command.prepared(tmp_path)
    assert [x.name for x in again] == [x.name for x in glyphs]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(again, glyphs, strict=True))


def test_one_failure_leaves_the_others(
    glyphs: list[Glyph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "prepared", lambda _: glyphs)
    advance = training.Training.advance

    def fails(self: training.Training, until: float | None) -> None:
        if self.name == "soft":
            raise FloatingPointError("loss is nan")
        advance(self, until)

    monkeypatch.setattr(training.Training, "advance", fails)
    line = f"train --prepared {tmp_path} --out {tmp_path / 'out'} --work {tmp_path} --workers 0"
    line += " --recipes soft epsilon --steps 1 --captions 0"
    monkeypatch.setattr("sys.argv", ["further", *line.split()])
    command.main()
    assert [x.name for x in (tmp_path / "out").iterdir()] == ["epsilon.tar"]
