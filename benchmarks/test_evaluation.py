"""The attack: images together against one at a time, equal results first."""

import pytest

from memfast.evaluation.adversarial import AttackSettings, find_embeddings
from memfast.models.denoising import Denoiser
from memfast.models.pipelines import load_pipeline

IMAGES, STEPS = 32, 2


@pytest.fixture(scope="module")
def denoiser():
    return Denoiser(load_pipeline("demo"))


def search(denoiser, draws, batch, steps=STEPS):
    ids = [f"image-{k}" for k in range(IMAGES)]
    clean = denoiser.initial_noise(ids, 1)
    start = denoiser.encode([f"picture {k}" for k in range(IMAGES)])
    settings = AttackSettings((steps,), draws=draws, batch=batch)
    return find_embeddings(denoiser, clean, start, ids, settings)[steps]


@pytest.fixture(scope="module", autouse=True)
def _equal(denoiser):
    """One step alone and together: Adam's first step is the sign of the gradient, so compare where
    that is not a matter of rounding."""
    together, alone = (search(denoiser, 1, batch, steps=1) for batch in (IMAGES, 1))
    assert (together - alone).abs().gt(1e-3).double().mean() < 1e-3


@pytest.mark.parametrize("draws", [1, 8])
@pytest.mark.parametrize("batch", [1, IMAGES])
def test_attack(benchmark, denoiser, draws, batch):
    benchmark.group = f"attack, {IMAGES} images, {STEPS} steps, {draws} draws"
    benchmark.pedantic(search, (denoiser, draws, batch), rounds=3, warmup_rounds=1)
