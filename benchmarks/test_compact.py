"""Compact models against dense ones: time of blocks and of whole models, size, damage.

`pytest --benchmark benchmarks/test_compact.py -s` prints ratios. Dense and compact run alternately
in one process, one thread, float32; a figure is the median CPU time of one side over that of the
other in the same round, after a check that the compact model equals the masked one.

MEMFAST_BENCHMARK_ROUNDS sets the rounds (default 15). The whole SD 1.4 needs 8 GB.
"""

import os
import time
from collections.abc import Callable
from statistics import median

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from torch import nn

from memfast import PromptSet, Subspace, collect, compact, ffn_sites, prune, read_prompts, shrink
from memfast.blocks.families import find_sites
from memfast.blocks.families.examples import EXAMPLES, build
from memfast.blocks.families.inputs import unet as unet_inputs
from memfast.blocks.sizes import flops_of, size_of
from memfast.demo import DATA
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.loading import load_pipeline
from memfast.removing.compensation import Correction
from memfast.removing.least_squares import least_squares
from memfast.removing.masking import ablate
from memfast.selection import random_like

pytestmark = pytest.mark.usefixtures("one_thread")
ROUNDS = int(os.environ.get("MEMFAST_BENCHMARK_ROUNDS", "15"))
SHARES = (0.1, 0.25, 0.5, 0.75)
SD14 = {320: 4096, 640: 1024, 1280: 256}  # channels -> token rows of one image


def every(share: float, model: nn.Module) -> Subspace:
    """The first `share` of every block's neurons: which ones does not matter to time."""
    return Subspace({p: torch.arange(n) < int(share * n) for p, n in ffn_sites(model).items()})


def ratios(
    dense: Callable[[], object], others: dict[str, Callable[[], object]], rounds: int = ROUNDS
) -> dict[str, float]:
    """Each call's CPU time over the dense one's of the same round: the median over rounds."""
    seen: dict[str, list[float]] = {name: [] for name in others}
    with torch.no_grad():
        for number in range(rounds + 1):  # the first is for warming up
            whole = seconds(dense)
            for name, call in others.items():
                part = seconds(call)
                if number:
                    seen[name].append(part / whole)
    return {name: median(found) for name, found in seen.items()}


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


@pytest.mark.parametrize("channels", SD14)
def test_feed_forward_time(benchmark, channels: int) -> None:
    """On SD 1.4's shapes, at most the kept share + 0.05."""
    torch.manual_seed(0)
    dense = nn.ModuleDict({"ff": FeedForward(channels, activation_fn="geglu")}).eval()
    rows = torch.randn(1, SD14[channels], channels)
    blocks = {}
    for share in SHARES:
        blocks[share] = compact(dense, every(share, dense), compensate="none")
        masked = prune(dense, every(share, dense))
        with torch.no_grad():
            torch.testing.assert_close(
                blocks[share]["ff"](rows), masked["ff"](rows), atol=1e-5, rtol=0
            )
    calls = {str(s): lambda b=block: b["ff"](rows) for s, block in blocks.items()}
    found = ratios(lambda: dense["ff"](rows), calls, 2 * ROUNDS + 1)
    benchmark.pedantic(lambda: None)
    for share, ratio in found.items():
        print(
            f"\nfeed-forward {channels}: {float(share):.0%} removed -> time x {ratio:.3f}", end=""
        )
    benchmark.extra_info.update(found)
    for share, ratio in found.items():
        assert ratio <= 1 - float(share) + 0.05


def test_two_block_sdxl_stack(benchmark) -> None:
    """Two of SDXL's 1,280-channel blocks with attention: time against the share of FLOPs."""
    torch.manual_seed(0)
    stack = nn.Sequential(
        *(
            BasicTransformerBlock(1280, 20, 64, cross_attention_dim=2048, activation_fn="geglu")
            for _ in range(2)
        )
    ).eval()
    rows, text = torch.randn(1, 1024, 1280), torch.randn(1, 77, 2048)

    def run(blocks: nn.Module) -> torch.Tensor:
        hidden = rows
        for block in blocks:  # type: ignore[attr-defined]
            hidden = block(hidden, encoder_hidden_states=text)
        return hidden

    smaller = {s: compact(stack, every(s, stack), compensate="none") for s in (0.25, 0.5, 0.75)}
    with torch.no_grad():
        masked = run(prune(stack, every(0.5, stack)))
        torch.testing.assert_close(run(smaller[0.5]), masked, atol=1e-5, rtol=1e-5)
    found = ratios(lambda: run(stack), {str(s): lambda m=m: run(m) for s, m in smaller.items()})
    benchmark.pedantic(lambda: None)
    ffn = 6 * 1280 * 5120 * 2 * 1024 * 2 // 2  # value, gate and output of a block, times two blocks
    attention = 2 * (4 + 2) * 1280 * 1280 * 1024 + 2 * 2 * 1280 * 2048 * 77
    attention += 2 * 2 * 1024 * 1024 * 1280 + 2 * 2 * 1024 * 77 * 1280
    part = ffn / (ffn + 2 * attention)
    for share in smaller:
        ratio, predicted = found[str(share)], 1 - share * part
        print(f"\nSDXL stack: {share:.0%} removed -> x {ratio:.3f}, FLOPs predict {predicted:.3f}")


def test_whole_sd14(benchmark) -> None:
    """The whole UNet at SD 1.4's shapes, half of the neurons gone: time, parameters, bytes."""
    torch.manual_seed(0)
    dense = build(EXAMPLES["SD 1.4"], EXAMPLES["SD 1.4"].released)
    assert isinstance(dense, UNet2DConditionModel)
    half = every(0.5, dense)
    removed = {path: int(mask.sum()) for path, mask in half.neurons.items()}
    gone = sum(find_sites(dense)[path].parameters_per_neuron * n for path, n in removed.items())
    inputs = {k: v[:1] for k, v in unet_inputs(dense.config, 32, 77).items()}
    total, ours = flops_of(dense, inputs)
    smaller = compact(dense, half, compensate="none")
    before, after = size_of(dense), size_of(smaller)
    assert before.parameters - after.parameters == gone
    assert before.bytes - after.bytes == 4 * gone - 4 * after.neurons  # the kept indices stay
    found = ratios(lambda: dense(**inputs), {"half": lambda: smaller(**inputs)}, min(ROUNDS, 3))
    small = smaller(**inputs).sample
    with ablate(dense, half), torch.no_grad():
        torch.testing.assert_close(small, dense(**inputs).sample, atol=1e-5, rtol=1e-5)
    benchmark.pedantic(lambda: None)
    ratio, predicted = found["half"], 1 - 0.5 * ours / total
    print(
        f"\nSD 1.4, 32 x 32 latents, half removed: time x {ratio:.3f}, FLOPs predict "
        f"{predicted:.3f}; parameters {before.parameters:,} -> {after.parameters:,}"
    )


@pytest.fixture(scope="module")
def reference():
    """The demo model, 100 held-out prompts, their statistics over the whole schedule, and how to
    measure damage: squared change of the prediction over its square, along the dense model's own
    trajectories of 16 other prompts.
    """
    torch.set_num_threads(1)
    pipeline = load_pipeline("demo")
    prompts = list(read_prompts(DATA / "heldout.jsonl"))
    taken, test = PromptSet.of(prompts[::4]), prompts[1::25]
    steps = {"num_inference_steps": 10, "steps": 10}
    statistics = collect(pipeline, taken, rows="both", **steps)
    driver = driver_of(pipeline)
    embeddings = driver.encode([p.text for p in test])
    pipeline.scheduler.set_timesteps(driver.schedule().num_inference_steps)
    points, latents = [], driver.initial_noise([p.id for p in test], 1)
    with torch.no_grad():
        for timestep in pipeline.scheduler.timesteps:
            wanted = driver.predict(latents, timestep, embeddings)
            points.append((latents, timestep, wanted))
            latents = pipeline.scheduler.step(wanted, timestep, latents).prev_sample

    def damage() -> float:
        changed = whole = 0.0
        with torch.no_grad():
            for latents, timestep, wanted in points[::3]:
                output = driver.predict(latents, timestep, embeddings)
                changed += float((output - wanted).square().sum())
                whole += float(wanted.square().sum())
        return changed / whole

    def solve(subspace: Subspace) -> dict[str, Correction]:
        return least_squares(pipeline, taken, subspace, **steps)

    return pipeline.unet, statistics, solve, damage


@pytest.mark.parametrize("share", [0.6, 0.4, 0.2, 0.1])
@pytest.mark.parametrize("chosen", ["least needed", "random"])
def test_compensation(benchmark, reference, share: float, chosen: str) -> None:
    """Damage to prompts that took no part, on the demo model, by compensation."""
    unet, statistics, solve, damage = reference
    subspace = shrink(unet, statistics, share)
    if chosen == "random":
        subspace = random_like(subspace, 0)
    solved = solve(subspace)
    figures = {}
    for name, compensate in {"none": "none", "mean": "mean", "least squares": solved}.items():
        with ablate(unet, subspace, compensate=compensate):
            figures[name] = damage()
    line = ", ".join(f"{key} {value:.5f}" for key, value in figures.items())
    print(f"\n{share:.0%} removed, {chosen}: damage {line}", flush=True)
    assert figures["least squares"] < figures["none"]
    benchmark.pedantic(lambda: None)
