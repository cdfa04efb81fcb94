"""Models that are elsewhere until they are called, or run under autocast: watched and driven."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.hooks import apply_group_offloading

from memfast import collect, collect_sensitivity, locate
from memfast.pipelines.drivers.table import driver_of
from memfast.removing.least_squares import least_squares
from memfast.statistics import NeuronStatistics
from tests.support.tiny.table import build

TEXTS, SHORT = ["a", "b"], {"num_inference_steps": 1}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plain() -> NeuronStatistics:
    return collect(build("sd-v"), TEXTS, steps=1, **SHORT)


def close(found: NeuronStatistics, plain: NeuronStatistics, tolerance: float) -> None:
    for site in plain.sites:
        norm = plain[site].l2_norm
        assert (found[site].l2_norm - norm).norm() <= tolerance * norm.norm()


def group(kind: str) -> Callable[[Any], None]:
    def offload(pipeline: Any) -> None:
        blocks = 1 if kind == "block_level" else None
        apply_group_offloading(pipeline.unet, CPU, offload_type=kind, num_blocks_per_group=blocks)

    return offload


@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
def test_group_offload(plain: NeuronStatistics, kind: str) -> None:
    pipeline = build("sd-v")
    group(kind)(pipeline)
    close(collect(pipeline, TEXTS, steps=1, **SHORT), plain, 1e-6)
    driver = driver_of(pipeline)
    assert driver.generate(driver.encode(TEXTS), ["1", "2"], 0, SHORT).isfinite().all()


def test_autocast(plain: NeuronStatistics) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        close(collect(build("sd-v"), TEXTS, steps=1, **SHORT), plain, 3e-2)


def test_model_offload(plain: NeuronStatistics, far: str) -> None:
    """Weights are on the CPU between calls, latents and gates on the accelerator."""
    pipeline = build("sd-v")
    pipeline.enable_model_cpu_offload(device=far)
    close(collect(pipeline, TEXTS, steps=1, **SHORT), plain, 1e-5)
    driver = driver_of(pipeline)
    assert driver.device.type == far
    made = driver.generate(driver.encode(TEXTS), ["1", "2"], 0, SHORT)
    latents = driver.encode_images(made)
    loss = driver.loss(latents, driver.encode(TEXTS), driver.initial_noise(["1", "2"], 0), 500)
    assert loss.isfinite().all()
    for by in ("gradient", "perturbation"):
        found = collect_sensitivity(pipeline, TEXTS, strata=1, by=by, **SHORT)
        subspace = locate(None, found, pipeline.unet, rule="reference", fraction=0.2)
        assert subspace.removed
    corrections = least_squares(pipeline, TEXTS, subspace, steps=1, **SHORT)
    assert all(each.weight.isfinite().all() for each in corrections.values())
