"""The attack: images together against one at a time, equal results first.

`pytest --benchmark benchmarks/test_evaluation.py -s` prints, for each number of draws, the time of
two loops over that of the batched attack. "alone": `find_embeddings` on one image at a time, all
its draws together. "plain": what one writes first, one image and one draw after another, with
`loss.backward()` through every parameter. All three run in turn in one process on one thread; a
figure is the median over rounds of the ratio within a round, of CPU time and of wall time.

MEMFAST_BENCHMARK_ROUNDS sets the rounds (default 5).
"""

import os
import time
from collections.abc import Callable
from statistics import median

import pytest
import torch

from memfast.attacks.embeddings import AttackSettings, find_embeddings
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.loading import load_pipeline
from memfast.pipelines.noise import generator

ROUNDS = int(os.environ.get("MEMFAST_BENCHMARK_ROUNDS", "5"))
IMAGES = 16
IDS = [f"image-{k}" for k in range(IMAGES)]


@pytest.fixture(scope="module")
def driver():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield driver_of(load_pipeline("demo"))
    torch.set_num_threads(before)


def plain(driver, clean, start, draws):
    """One step of the attack as a loop over images and draws."""
    found = []
    for k, name in enumerate(IDS):
        source = generator(name, 0)
        noise = torch.randn(draws, *clean.shape[1:], generator=source)
        times = torch.randint(1, driver.path.training_steps, (draws,), generator=source)
        begun = start[k : k + 1]
        (leaf,) = begun.searched
        embedding = begun.leaves[leaf].clone().requires_grad_()
        optimiser = torch.optim.Adam([embedding], lr=0.1)
        for one in range(draws):
            row = slice(one, one + 1)
            told = begun.told({leaf: embedding})
            loss = driver.loss(clean[k : k + 1], told, noise[row], times[row])
            (loss.sum() / draws).backward()
        optimiser.step()
        driver.model.zero_grad()
        found.append(begun.told({leaf: embedding.detach()}))
    return Conditioning.cat(found)


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


@pytest.mark.parametrize("draws", [1, 2, 4, 8])
def test_attack(benchmark, driver, draws):
    clean = driver.initial_noise(IDS, 1)
    start = driver.encode([f"picture {k}" for k in range(IMAGES)])

    def search(batch: int) -> Conditioning:
        settings = AttackSettings((1,), draws=draws, batch=batch)
        return find_embeddings(driver, clean, start, IDS, settings)[1]

    driver.model.requires_grad_(True)
    calls = {"alone": lambda: search(1), "plain": lambda: plain(driver, clean, start, draws)}
    together = search(IMAGES)
    for call in calls.values():  # Adam's first step is a sign: equal but for gradients near zero
        pairs = zip(together.searching().values(), call().searching().values(), strict=True)
        for ours, theirs in pairs:
            assert (ours - theirs).abs().gt(1e-3).double().mean() < 1e-3
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        cpu, wall = seconds(lambda: search(IMAGES))
        for name, call in calls.items():
            its_cpu, its_wall = seconds(call)
            ratios[name].append((its_cpu / cpu, its_wall / wall))
    benchmark.pedantic(search, (IMAGES,))
    for name, found in ratios.items():
        by_cpu, by_wall = (median(values) for values in zip(*found, strict=True))
        print(
            f"\n{draws} draws, {name}: {by_cpu:.2f} x by CPU time, {by_wall:.2f} x by wall", end=""
        )
