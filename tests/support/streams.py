"""Which rows pass a feed-forward, seen by plain hooks during a pipeline's own run."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from memfast.blocks.families.finding import find_sites
from memfast.pipelines.drivers.calls import run
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.table import driver_of


def neurons(
    driver: Driver, texts: Sequence[str], ids: Sequence[str] = ("same",) * 3
) -> dict[str, Tensor]:
    """Activations [images, rows, neurons] at each site in the first call of an unguided run."""
    found: dict[str, Tensor] = {}
    hooks = [
        site.contraction.register_forward_pre_hook(
            lambda _, args, path=path, site=site: _keep(found, path, args[0][..., site.columns])
        )
        for path, site in find_sites(driver.model).items()
    ]
    call = driver.call(len(texts), driver._unguided)
    noise = driver.initial_noise(ids[: len(texts)], 0)
    run(driver.pipeline, prompt=list(texts), latents=noise, output_type="latent", **call)
    for hook in hooks:
        hook.remove()
    return found


def moved(driver: Driver, texts: Sequence[str], path: str, rows: Tensor) -> Tensor:
    """Which rows [images, rows] of the first single block move with these rows of the text.

    rows: [images, tokens] of the text stream, changed where it leaves the last block before; the
    neurons of a single block read its entry row by row.
    """
    before = neurons(driver, texts)[path]
    hook = driver.model.transformer_blocks[-1].register_forward_hook(
        lambda _, args, output: (
            output[0] + rows[..., None] * torch.randn_like(output[0]),
            output[1],
        )
    )
    after = neurons(driver, texts)[path]
    hook.remove()
    return (before != after).any(-1)


def sibling(pipeline: Any, kind: type, **parts: Any) -> Driver:
    """What drives a pipeline of that class around the same parts, at the same size."""
    wanted = signature(kind.__init__).parameters
    parts |= {name: part for name, part in pipeline.components.items() if name in wanted}
    made = kind(**parts)
    made.set_progress_bar_config(disable=True)
    driver = driver_of(made)
    if hasattr(pipeline, "default_sample_size"):
        driver.pipeline.default_sample_size = pipeline.default_sample_size
    return driver


def pictures(driver: Driver) -> Tensor:
    """Two images of two texts in two guided steps."""
    schedule = driver.schedule(num_inference_steps=2, guidance_scale=3.0)
    return driver.generate(driver.encode(["a cat", "b"]), ["x", "y"], 0, schedule)


def _keep(found: dict[str, Tensor], path: str, rows: Tensor) -> None:
    found.setdefault(path, rows.detach().clone())
