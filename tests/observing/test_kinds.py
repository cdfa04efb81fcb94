"""collect against plain hooks during each pipeline's own run: all sites, both halves, any batch."""

from typing import Any

import pytest
import torch

from memfast import collect
from memfast.blocks.families import find_sites
from memfast.blocks.families.linears import to_rows
from memfast.pipelines.drivers.calls import run
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.noise import generator
from memfast.prompts import Prompt
from tests.support.tiny.table import EVERYDAY, ONE_A_KIND, build, marked

PROMPTS = [Prompt("a", "a red cat"), Prompt("b", "b"), Prompt("c", "a dog on a blue background")]
STEPS = 2


Seen = dict[str, list[tuple[int, torch.Tensor]]]  # site -> (number of the denoiser's call, neurons)


def hooked(driver: Any, prompts: list[Prompt], scale: float) -> Seen:
    """What each site's contracting linear read in the pipeline's own run."""
    sites = find_sites(driver.model)
    seen: Seen = {path: [] for path in sites}
    calls: list[None] = []
    schedule = driver.schedule(num_inference_steps=STEPS, guidance_scale=scale)
    sources = [generator(prompt.id, 4) for prompt in prompts]
    noise = driver.noise_of(sources)
    call = driver.call(len(prompts), schedule)
    handles = [
        site.contraction.register_forward_pre_hook(
            lambda module, inputs, path=path, site=site: seen[path].append(
                (len(calls) - 1, to_rows(module, inputs[0])[..., site.columns].detach().double())
            )
        )
        for path, site in sites.items()
    ]
    handles += [
        model.register_forward_pre_hook(lambda *_: calls.append(None))
        for model in driver.models.values()
    ]
    run(
        driver.pipeline,
        prompt=[prompt.text for prompt in prompts],
        latents=noise,
        generator=sources,
        output_type="latent",
        **call,
    )
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("rows", ["conditional", "both"])
@pytest.mark.parametrize("name", marked(ONE_A_KIND, EVERYDAY))
def test_collect_equals_plain_hooks(name: str, rows: str) -> None:
    """With padding counted: sums of squares of every neuron at every step."""
    pipeline = build(name)
    driver = driver_of(pipeline)
    schedule = driver.schedule(num_inference_steps=STEPS, guidance_scale=3.0)
    guided = driver.guided(schedule)
    if rows == "both" and not guided:
        pytest.skip(f"{driver.kind}: no rows without the prompt in its own run")
    for batch in (1, 3):
        expected: dict[str, list[Any]] = {}
        for start in range(0, len(PROMPTS), batch):
            chunk = PROMPTS[start : start + batch]
            for part in driver.alike([prompt.text for prompt in chunk]):
                calls = hooked(driver, [chunk[place] for place in part], 3.0)
                for path, of_steps in squares(driver, calls, guided, rows).items():
                    known = expected.setdefault(path, [0] * STEPS)
                    expected[path] = [a + b for a, b in zip(known, of_steps, strict=True)]
        found = collect(
            pipeline,
            PROMPTS,
            steps=STEPS,
            num_inference_steps=STEPS,
            guidance_scale=3.0,
            seed=4,
            rows=rows,
            padding=True,
            batch_size=batch,
        )
        assert found.header["num_inference_steps"] == STEPS
        for path, steps in expected.items():
            for step, total in enumerate(steps):
                own = found[path].l2_norm[step].square()
                if isinstance(total, int):
                    assert own.sum() == 0
                else:
                    torch.testing.assert_close(own, total, rtol=2e-5, atol=1e-9)


def squares(driver: Any, seen: Seen, guided: bool, rows: str) -> dict[str, list[Any]]:
    """Each site's sums of squares, a neuron, at every step: of the half or halves wanted."""
    wanted = ("conditional", "unconditional") if rows == "both" else ("conditional",)
    calls_a_step = 2 if guided and not driver.together else 1
    sums: dict[str, list[Any]] = {path: [0] * STEPS for path in seen}
    for path, calls in seen.items():
        for call, neurons in calls:
            step, half = divmod(call, calls_a_step)
            parts = {driver.halves[half] if guided else "conditional": neurons}
            if guided and driver.together:
                parts = dict(zip(driver.halves, neurons.chunk(2), strict=True))
            for each in wanted:
                if each in parts:
                    total = parts[each].flatten(0, -2).square().sum(0)
                    sums[path][step] = sums[path][step] + total
    return sums


@pytest.mark.parametrize("name", marked(ONE_A_KIND, EVERYDAY))
def test_statistics_without_padding_do_not_depend_on_the_batch(name: str) -> None:
    pipeline = build(name)
    how = {"steps": 1, "num_inference_steps": STEPS, "rows": "both", "seed": 1}
    whole = collect(pipeline, PROMPTS, batch_size=3, **how)
    parts = [collect(pipeline, [prompt], **how) for prompt in PROMPTS]
    single = parts[0] + parts[1] + parts[2]
    for path in whole.sites:
        assert torch.equal(whole[path].count, single[path].count)
        torch.testing.assert_close(whole[path].l2_norm, single[path].l2_norm, rtol=1e-4, atol=1e-6)
