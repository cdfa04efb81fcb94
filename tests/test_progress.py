"""`progress=True`: a bar on stderr for every stage of every long function, else nothing."""

import re
from inspect import signature
from pathlib import Path

import pytest

import memfast
from memfast.attacks.embeddings import AttackSettings
from memfast.auditing.looking.settings import Settings
from memfast.choosing.learned_gates import Pull
from memfast.repairing.settings import RepairSettings
from tests.support.planted import pictures, save_set

SHORT = {"num_inference_steps": 2, "guidance_scale": 1.5}
CAPTIONS = ["red b", "blue c", "c", "dog on red", "cat on blue", "b background", "a b", "red c"]
MANY = [f"{a} {b}" for a in ("a", "b", "c", "on") for b in ("cat", "dog", "red", "blue", "a")]
NETWORK = "efficientnet-lite0-spatial"
SUBSPACE = {"rule": "neurons", "fraction": 0.1}


def located(pipeline):
    sets = (memfast.collect(pipeline, [text], steps=1, **SHORT) for text in CAPTIONS[:2])
    return memfast.locate(*sets, pipeline.unet, **SUBSPACE)


LONG = {  # what shows these stages
    "collect": (
        lambda p, *_, **how: memfast.collect(p, CAPTIONS, steps=1, **how),
        {"collecting": 8},
    ),
    "collect_sensitivity": (
        lambda p, *_, **how: memfast.collect_sensitivity(p, CAPTIONS, strata=1, **how),
        {"sensitivity": 8},
    ),
    "collect_gradients": (
        lambda p, *_, **how: memfast.collect_gradients(p, CAPTIONS, steps=1, **how),
        {"gradients": 8},
    ),
    "learn_gates": (
        lambda p, *_, **how: memfast.learn_gates(
            p, CAPTIONS[:2], CAPTIONS[2:], pull=Pull(steps=2), **how
        ),
        {"learning gates": 2},
    ),
    "least_squares": (
        lambda p, *_, **how: memfast.least_squares(p, CAPTIONS, located(p), steps=1, **how),
        {"collecting": 8},
    ),
    "audit": (
        lambda p, memorized, reference, out, **how: memfast.audit(
            p, MANY, out, settings=Settings(**SHORT), **{k: how[k] for k in how if k not in SHORT}
        ),
        {"calibrating": 20, "auditing": 20},
    ),
    "evaluate": (
        lambda p, memorized, reference, out, **how: memfast.evaluate(
            *(p, memorized, reference), repeats=1, seeds=1, metrics=("ssim",), features=None, **how
        ),
        {"evaluating": 1},
    ),
    "attack": (
        lambda p, memorized, reference, out, **how: memfast.attack(
            *(p, memorized, reference),
            starts=("prompt",),
            settings=AttackSettings((1,), draws=1),
            seeds=1,
            metrics=("ssim",),
            **how,
        ),
        {"attacking: memorized": 4, "attacking: control": 4, "triggers": 4},
    ),
    "calibrate_guard": (
        lambda p, memorized, reference, out, progress=False, **_: memfast.calibrate_guard(
            p, MANY, settings=Settings(**SHORT), progress=progress
        ),
        {"calibrating": 20},
    ),
    "index_images": (
        lambda p, memorized, reference, out, progress=False, **_: memfast.index_images(
            [prompt.image for prompt in memorized], out, NETWORK, progress=progress
        ),
        {"indexing": 4},
    ),
    "repair": (
        lambda p, *_, **how: memfast.repair(p, p, CAPTIONS, settings=RepairSettings(2), **how),
        {"repairing": 2},
    ),
}


@pytest.mark.parametrize("name", LONG)
def test_bars_to_their_ends(name: str, tiny_pipeline, reference_set, tmp_path: Path, capfd) -> None:
    work, stages = LONG[name]
    memorized = save_set(tmp_path, CAPTIONS[:4], list(pictures(4, seed=1)))
    given = tiny_pipeline, memorized, reference_set
    capfd.readouterr()
    work(*given, tmp_path / "quiet", **SHORT)
    assert capfd.readouterr().err == ""
    work(*given, tmp_path / "shown", progress=True, **SHORT)
    shown = capfd.readouterr().err
    for label, total in stages.items():
        assert re.search(rf"{label}: +0%.* 0/{total} ", shown)
        assert re.search(rf"{label}: 100%.* {total}/{total} ", shown)


def test_every_public_function_that_has_progress_is_tried() -> None:
    public = {name: getattr(memfast, name) for name in memfast.__all__ if name.islower()}
    told = {
        name
        for name, each in public.items()
        if callable(each) and "progress" in signature(each).parameters
    }
    assert told == LONG.keys()
