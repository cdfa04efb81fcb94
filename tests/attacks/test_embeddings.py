"""The attack against Adam by hand, and that batching changes nothing."""

import pytest
import torch

from memfast.attacks.embeddings import STARTS, AttackSettings, find_embeddings
from memfast.pipelines.drivers.alpha_bar.stable_diffusion import EMBEDDINGS
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.noise import generator

IDS = ["one", "two", "three"]
TEXTS = ["a cat", "a dog", "red b"]


@pytest.fixture
def driver(tiny_pipeline):
    for part in (tiny_pipeline.unet, tiny_pipeline.text_encoder, tiny_pipeline.vae):
        part.double()
    yield driver_of(tiny_pipeline)
    for part in (tiny_pipeline.text_encoder, tiny_pipeline.vae):
        part.float()


@pytest.fixture
def clean(driver):
    return driver.initial_noise(IDS, 3)


def test_the_first_step_is_adam_by_hand(driver, clean):
    start = driver.encode(TEXTS)
    found = find_embeddings(driver, clean, start, IDS, AttackSettings((1,), draws=2))[1]
    for k, name in enumerate(IDS):
        source = generator(name, 0)
        noise = torch.randn(2, *clean.shape[1:], generator=source).double()
        times = torch.randint(1, 1000, (2,), generator=source)
        embedding = start.leaves[EMBEDDINGS][k : k + 1].clone().requires_grad_()
        latents = driver.path.add(clean[[k, k]], noise, times)
        told = Conditioning({EMBEDDINGS: embedding.expand(2, -1, -1)}, (EMBEDDINGS,))
        output = driver.predict(latents, times, told)
        target = driver.path.target(clean[[k, k]], noise, times)
        loss = (output - target).square().mean()
        (gradient,) = torch.autograd.grad(loss, embedding)
        expected = embedding - 0.1 * gradient / (gradient.abs() + 1e-8)
        ours = found.leaves[EMBEDDINGS][k : k + 1]
        torch.testing.assert_close(ours, expected.detach(), atol=1e-6, rtol=0)


def test_batching_changes_nothing(driver, clean):
    start = driver.encode(TEXTS)
    together, alone = (
        find_embeddings(driver, clean, start, IDS, AttackSettings((4,), draws=2, batch=batch))[4]
        for batch in (3, 1)
    )
    torch.testing.assert_close(together.leaves, alone.leaves, atol=1e-6, rtol=0)


def test_a_longer_search_passes_through_a_shorter_one(driver, clean):
    start = driver.encode(TEXTS)
    told = []
    long = find_embeddings(
        driver, clean, start, IDS, AttackSettings((2, 5), draws=1), progress=told.append
    )
    short = find_embeddings(driver, clean, start, IDS, AttackSettings((2,), draws=1))
    torch.testing.assert_close(long[2].leaves, short[2].leaves, atol=0, rtol=0)
    assert sum(told) == 15


def test_the_search_lowers_the_loss_on_draws_it_never_saw(driver, clean):
    start = driver.encode(TEXTS)
    found = find_embeddings(driver, clean, start, IDS, AttackSettings((60,), draws=4))[60]
    rows = torch.arange(3).repeat_interleave(64)
    source = torch.Generator().manual_seed(99)
    noise = torch.randn(192, *clean.shape[1:], generator=source).double()
    times = torch.randint(1, 1000, (192,), generator=source)
    with torch.no_grad():
        before, after = (
            driver.loss(clean[rows], told[rows], noise, times).view(3, 64).mean(1)
            for told in (start, found)
        )
    assert (after < before).all()


def test_no_gradient_reaches_the_model(driver, clean):
    find_embeddings(driver, clean, driver.encode(TEXTS), IDS, AttackSettings((1,), draws=1))
    assert all(parameter.grad is None for parameter in driver.model.parameters())


@pytest.mark.parametrize("name", STARTS)
def test_starts(name, driver):
    start = STARTS[name]
    first, again = (start(driver, IDS, TEXTS, 0).leaves[EMBEDDINGS] for _ in range(2))
    own = driver.encode(TEXTS).leaves[EMBEDDINGS]
    assert first.shape == own.shape
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    same = [bool(torch.equal(a, b)) for a, b in zip(first, own, strict=True)]
    assert same == [name == "prompt"] * 3


def test_a_start_from_noise_depends_on_id_and_seed_alone(driver):
    alone, same, other = (
        STARTS["noise"](driver, IDS[part], TEXTS[part], seed).leaves[EMBEDDINGS][-1]
        for part, seed in ((slice(1, 2), 5), (slice(2), 5), (slice(2), 6))
    )
    assert torch.equal(same, alone)
    assert not torch.equal(other, alone)


@pytest.mark.parametrize("steps", [(), (0,), (5, 2), (3, 3)])
def test_steps_must_ascend(steps):
    with pytest.raises(ValueError, match="steps: ascending numbers from 1"):
        AttackSettings(steps)
