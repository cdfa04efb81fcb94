"""collect against plain hooks, one prompt at a time; batches, guidance, bad activations."""

from contextlib import contextmanager

import pytest
import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)
from diffusers.models.attention import FeedForward
from memfast_kernels import column_moments
from torch import nn

import memfast
from memfast.errors import InputError
from memfast.observing import collecting
from memfast.observing.side_by_side import Places, by_site, merge_in_order
from memfast.pipelines.noise import generator
from memfast.prompts import PromptSet, make_prompt

PROMPTS = ["a cat", "a dog", "red b on c", "blue a"]
SHORT = {"steps": 2, "num_inference_steps": 4}

pytestmark = pytest.mark.filterwarnings(  # some schedulers of diffusers with NumPy 2
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@contextmanager
def noted(unet: nn.Module):
    """Within the context {site: a list of H, one a call}: every neuron by a plain hook."""
    seen: dict[str, list[torch.Tensor]] = {}
    handles = []
    for path, module in unet.named_modules():
        if isinstance(module, FeedForward):
            calls = seen.setdefault(path, [])
            note = lambda _, inputs, calls=calls: calls.append(inputs[0].detach().clone())  # noqa: E731
            handles.append(module.net[2].register_forward_pre_hook(note))
    yield seen
    for handle in handles:
        handle.remove()


def hooked(pipeline: StableDiffusionPipeline, texts: list[str], steps: int = 2, **settings):
    """{site: [steps][prompts] of H [2, tokens, neurons]}: every neuron by a plain hook."""
    with noted(pipeline.unet) as seen:
        for text in texts:
            noise = generator(make_prompt(text).id, 0)
            pipeline(text, generator=noise, num_inference_steps=4, output_type="latent", **settings)
    per_prompt = len(next(iter(seen.values()))) // len(texts)
    return {
        path: [[calls[p * per_prompt + s] for p in range(len(texts))] for s in range(steps)]
        for path, calls in seen.items()
    }


@pytest.mark.parametrize("rows", ["conditional", "both"])
@pytest.mark.parametrize("row_normalised", [False, True])
def test_equal_to_hooks(tiny_pipeline, rows, row_normalised):
    settings = {"rows": rows, "row_normalised": row_normalised}
    found = memfast.collect(
        tiny_pipeline, PROMPTS, **SHORT, **settings, prompt_norms=True, batch_size=1
    )
    for path, steps in hooked(tiny_pipeline, PROMPTS).items():
        for step, prompts in enumerate(steps):
            kept = [h.double() if rows == "both" else h[1:].double() for h in prompts]
            if row_normalised:
                kept = [h / h.norm(dim=-1, keepdim=True) for h in kept]
            flat = [h.flatten(0, 1) for h in kept]
            every = torch.cat(flat)
            norms = torch.stack([h.square().mean(0).sqrt() for h in flat])
            site = found[path]
            assert int(site.count[step, 0]) == len(every)
            for ours, theirs in (
                (site.mean[step], every.mean(0)),
                (site.variance[step], every.var(0, correction=0)),
                (site.l2_norm[step], every.norm(dim=0)),
                (site.norm_mean[step], norms.mean(0)),
                (site.norm_variance[step], norms.var(0)),
            ):
                tolerance = 1e-6 * float(theirs.abs().max())  # a mean may be near zero
                torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=tolerance)


def close(a: memfast.NeuronStatistics, b: memfast.NeuronStatistics, tolerance: float) -> None:
    assert a.sites == b.sites
    for path in a.sites:
        for name in ("variance", "l2_norm"):
            ours, theirs = getattr(a[path], name), getattr(b[path], name)
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * 1e-2)
        off = (a[path].mean - b[path].mean).abs()  # a mean near 0 has the rounding of its values
        assert (off <= tolerance * a[path].rms).all()
        assert torch.equal(a[path].count, b[path].count)


SCHEDULERS = {"ancestral": EulerAncestralDiscreteScheduler, "pndm": PNDMScheduler, "own": None}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_batch_size_does_not_matter(tiny_pipeline, name):
    if SCHEDULERS[name]:
        config = {**tiny_pipeline.scheduler.config, "prediction_type": "epsilon"}
        tiny_pipeline.scheduler = SCHEDULERS[name].from_config(config)
    alone, *others = (
        memfast.collect(tiny_pipeline, PROMPTS, **SHORT, batch_size=size) for size in (1, 3, 8)
    )
    for other in others:
        close(alone, other, 1e-5)


def test_statistics_of_the_same_activations_are_the_same_bits_in_any_batch():
    data = torch.randn(8, 9, 5, generator=torch.Generator().manual_seed(0))
    results = []
    for size in (1, 3, 8):
        places, both = Places({"a": 5, "b": 5}), Places(dict.fromkeys("abcd", 5))
        state = both.empty(1)
        for batch in data.split(size):
            moments = column_moments(batch.flatten(0, 1), segment_rows=9)
            images = places.row({"a": moments, "b": moments}).with_norms()
            state = merge_in_order(state, images)
        results.append(by_site([state.of_one()], places.sites))
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            assert all(torch.equal(ours[s].mean, theirs[s].mean) for s in "ab")
            assert all(torch.equal(ours[s].m2, theirs[s].m2) for s in "ab")


@contextmanager
def poisoned(pipeline: StableDiffusionPipeline, letter: str, value: float):
    """Within the context a prompt with a word that ends so has an embedding that is not finite."""
    token = pipeline.tokenizer.convert_tokens_to_ids(f"{letter}</w>")
    weight = pipeline.text_encoder.get_input_embeddings().weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight[token] = value
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("rows", ["conditional", "both"])
def test_bad_activations_are_left_out_and_listed(tiny_pipeline, value, rows, caplog):
    told: list[int] = []
    with poisoned(tiny_pipeline, "g", value):
        found = memfast.collect(
            tiny_pipeline, PROMPTS, **SHORT, rows=rows, batch_size=3, progress=told.append
        )
    first = found.sites[0]
    assert found.skipped == [{"id": make_prompt("a dog").id, "site": first, "step": 0}]
    assert make_prompt("a dog").id in caplog.text
    assert found.header["prompts"] == 3
    assert make_prompt("a dog").id not in found.header["prompt_ids"]
    assert sum(told) == 4
    others = [text for text in PROMPTS if text != "a dog"]
    expected = memfast.collect(tiny_pipeline, others, **SHORT, rows=rows, batch_size=2)
    for path in found.sites:  # the bad batch was run again without it: the same bits
        assert torch.equal(found[path].mean, expected[path].mean)
        assert torch.equal(found[path].variance, expected[path].variance)


def test_nothing_is_left_changed(tiny_pipeline):
    before = dict(tiny_pipeline.unet.named_modules())
    with (
        poisoned(tiny_pipeline, "g", float("nan")),
        pytest.raises(InputError, match=r"no prompt's activations are finite: .* not at step 0"),
    ):
        memfast.collect(tiny_pipeline, ["a dog"], **SHORT)
    after = dict(tiny_pipeline.unet.named_modules())
    assert before.keys() == after.keys()
    assert all(before[path] is after[path] for path in before)
    assert not tiny_pipeline._interrupt
    assert not tiny_pipeline.unet._forward_hooks


def test_under_autocast_the_projection_is_the_models_own(tiny_pipeline):
    with torch.autocast("cpu", torch.bfloat16):
        found = memfast.collect(tiny_pipeline, ["a cat"], **SHORT, batch_size=1)
        seen = hooked(tiny_pipeline, ["a cat"])
    for path, steps in seen.items():
        for step, (neurons,) in enumerate(steps):
            assert neurons.dtype is torch.bfloat16
            exact = column_moments(neurons[1], backend="reference")
            assert torch.allclose(found[path].mean[step], exact.mean[0], rtol=1e-9, atol=1e-9)


def test_all_steps_of_the_schedule(tiny_pipeline):
    found = memfast.collect(tiny_pipeline, ["a cat"], steps=3, num_inference_steps=3)
    assert found.steps == 3
    assert all(int(found[path].count.min()) > 0 for path in found.sites)


def test_a_second_order_scheduler_makes_two_steps_of_each(tiny_pipeline):
    config = {**tiny_pipeline.scheduler.config, "prediction_type": "epsilon"}
    tiny_pipeline.scheduler = HeunDiscreteScheduler.from_config(config)
    found = memfast.collect(tiny_pipeline, ["a cat"], steps=3, num_inference_steps=3)
    seen = hooked(tiny_pipeline, ["a cat"], steps=3)
    for path, steps in seen.items():
        assert len(steps) == 3
        assert found[path].count.eq(found[path].count[0, 0]).all()


def test_without_guidance(tiny_pipeline):
    found = memfast.collect(tiny_pipeline, PROMPTS[:2], **SHORT, guidance_scale=1.0, batch_size=1)
    for path, steps in hooked(tiny_pipeline, PROMPTS[:2], guidance_scale=1.0).items():
        every = torch.cat([h.flatten(0, 1) for h in steps[0]]).double()
        tolerance = 1e-6 * float(every.abs().max())
        torch.testing.assert_close(found[path].mean[0], every.mean(0), rtol=2e-6, atol=tolerance)


def test_without_guidance_the_null_caption_is_asked_at_the_same_latents(tiny_pipeline):
    settings = {"guidance_scale": 1.0}
    found = memfast.collect(tiny_pipeline, PROMPTS[:1], **SHORT, **settings, rows="both")
    asked: list[tuple] = []
    note = lambda _, args, given: asked.append((args[0], args[1]))  # noqa: E731
    handle = tiny_pipeline.unet.register_forward_pre_hook(note, with_kwargs=True)
    prompted = hooked(tiny_pipeline, PROMPTS[:1], **settings)
    handle.remove()
    empty = tiny_pipeline.encode_prompt("", "cpu", 1, False)[0]
    with noted(tiny_pipeline.unet) as null, torch.no_grad():
        for latents, time in asked[:2]:
            tiny_pipeline.unet(latents, time, encoder_hidden_states=empty)
    for path, steps in prompted.items():
        for step, (neurons,) in enumerate(steps):
            every = torch.cat([neurons, null[path][step]]).flatten(0, 1).double()
            tolerance = 1e-6 * float(every.abs().max())
            assert int(found[path].count[step, 0]) == len(every)
            torch.testing.assert_close(
                found[path].mean[step], every.mean(0), rtol=2e-6, atol=tolerance
            )


def test_shared_noise(tiny_pipeline):
    settings = {**SHORT, "steps": 1, "guidance_scale": 1.0, "batch_size": 2}
    prompts = [make_prompt("a cat", id="x"), make_prompt("a cat", id="y")]
    alike = memfast.collect(
        tiny_pipeline, prompts, **settings, shared_noise=True, prompt_norms=True
    )
    apart = memfast.collect(tiny_pipeline, prompts, **settings, prompt_norms=True)
    path = alike.sites[0]
    assert float(alike[path].norm_variance.max()) < 1e-10 < float(apart[path].norm_variance.max())


def test_a_prompt_given_twice_counts_twice(tiny_pipeline):
    once, twice = (memfast.collect(tiny_pipeline, ["a cat"] * n, **SHORT) for n in (1, 2))
    path = once.sites[0]
    assert torch.equal(twice[path].count, 2 * once[path].count)
    off = (twice[path].mean - once[path].mean).abs()
    assert (off <= 1e-5 * once[path].rms).all()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"prompts": []}, "there are none"),
        ({"steps": 5, "num_inference_steps": 4}, "between 1 and num_inference_steps"),
        ({"steps": 0}, "between 1"),
        ({"rows": "unconditional"}, "conditional, both"),
    ],
)
def test_bad_input(tiny_pipeline, settings, reason):
    with pytest.raises(InputError, match=reason):
        memfast.collect(tiny_pipeline, **({"prompts": ["a"], **SHORT} | settings))


def test_the_header_says_what_was_run(tiny_pipeline):
    header = memfast.collect(tiny_pipeline, ["a cat"], **SHORT, seed=5).header
    assert header["schedule"]["class"] == "DDIMScheduler"
    assert header["schedule"]["timestep_spacing"] == "trailing"
    assert (header["seed"], header["guidance_scale"], header["num_inference_steps"]) == (5, 7.5, 4)
    assert header["prompt_ids"] == [make_prompt("a cat").id]


def test_what_is_kept_of_prompts_is_bounded(monkeypatch):
    monkeypatch.setattr(collecting, "NAMED", 2)
    prompts = [make_prompt(text) for text in "abc"]
    kept = collecting.Kept("lists/some.csv", prompts[:1])
    kept.add(prompts[1:])
    header = kept.header()
    assert header["prompts"] == 3
    assert header["lists"] == ["some.csv"]
    assert header["prompts_digest"] == [PromptSet.of(prompts).digest]
    assert header["prompt_ids"] == [prompt.id for prompt in prompts[:2]]
