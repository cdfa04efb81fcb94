"""Every driver against its pipeline's own run: what that passes, predicts, draws and paints."""

from typing import Any

import pytest
import torch
from torch import Tensor

from memfast.auditing.looking.prefix import Prefix
from memfast.blocks.families.finding import find_sites
from memfast.errors import InputError
from memfast.pipelines.drivers.calls import passed, run, watched
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.guidance import UNCONDITIONAL
from memfast.pipelines.drivers.paths import RectifiedFlow
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.noise import generator
from tests.support.tiny.table import ONE_A_KIND, TINY, build, marked

TEXTS = ("a red cat", "b", "a dog on a blue background")
IDS = ("one", "two", "three")


@pytest.fixture(scope="module", params=marked(TINY, ONE_A_KIND))
def driver(request: Any) -> Driver:
    return driver_of(build(request.param))


def own_run(
    driver: Driver, texts: Any, steps: int = 2, scale: float = 1.0, ids: Any = IDS, **rest: Any
) -> Any:
    """The pipeline's own run from the driver's noise, of texts that may share one."""
    schedule = driver.schedule(num_inference_steps=steps, guidance_scale=scale)
    sources = [generator(i, 3) for i in ids[: len(texts)]]
    noise = driver.noise_of(sources)
    return run(
        driver.pipeline,
        prompt=list(texts),
        latents=noise,
        generator=sources,
        return_dict=False,
        **driver.call(len(texts), schedule),
        **rest,
    )


def close(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    if isinstance(a, list):
        for one, other in zip(a, b, strict=True):
            close(one, other, tolerance)
        return
    largest = max(1.0, float(b.abs().max())) if b.numel() else 1.0
    torch.testing.assert_close(a.float(), b.float(), rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS], ids=["one", "three"])
def test_predicts_as_the_pipeline_s_own_run(driver: Driver, texts: Any) -> None:
    """At every step of an unguided run: the same output for the same latents, time and text."""
    conditioning = driver.encode(texts)
    for part in driver.alike(texts):
        predicts_as_its_run(driver, [texts[place] for place in part], conditioning[part])


def predicts_as_its_run(driver: Driver, texts: list[str], conditioning: Conditioning) -> None:
    seen: list[tuple[Tensor, Any]] = []
    outputs: list[Any] = []

    def before(arguments: Any) -> None:
        seen.append((driver.latents_of(arguments), driver.scheduler.timesteps[len(seen)]))

    hooks = [
        model.register_forward_hook(lambda _, args, output: outputs.append(output))
        for model in driver.models.values()
    ]
    with watched(driver.models, before):
        own_run(driver, texts, scale=driver._unguided.guidance_scale, output_type="latent")
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(driver.scheduler.timesteps)
    for (latents, time), output in zip(seen, outputs, strict=True):
        with torch.no_grad():
            own = driver.raw(output[0])
            close(driver.predict(latents, time, conditioning), own)


def test_a_prompt_s_conditioning_does_not_depend_on_its_batch(driver: Driver) -> None:
    together = driver.encode(TEXTS)
    noise = driver.initial_noise(IDS, 0)
    time = driver.path.time_of(0.5)
    with torch.no_grad():
        batched = driver.predict(noise, time, together)
        for row, text in enumerate(TEXTS):
            alone = driver.predict(noise[row : row + 1], time, driver.encode([text]))
            close(alone[0], batched[row])
        joined = Conditioning.cat([driver.encode([text]) for text in TEXTS])
        close(driver.predict(noise, time, joined), batched)
        close(driver.predict(noise[[2, 0]], time, together[[2, 0]]), batched[[2, 0]])


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_generates_what_the_pipeline_generates(
    driver: Driver, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memfast.pipelines.drivers.driver.IMAGES", 2)
    parts = driver.alike(TEXTS)
    own = [
        own_run(
            driver, [TEXTS[i] for i in part], 2, scale, [IDS[i] for i in part], output_type="pt"
        )[0]
        for part in parts
    ]
    order = torch.cat(parts).argsort()
    schedule = driver.schedule(num_inference_steps=2, guidance_scale=scale)
    made = driver.generate(driver.encode(TEXTS), IDS, 3, schedule)
    close(made, torch.cat([driver.pictures(one) for one in own])[order], 1e-4)
    assert made.shape[-2:] == driver.size


def test_draws_the_noise_that_the_pipeline_draws(driver: Driver) -> None:
    call = driver.call(2, driver.schedule(num_inference_steps=2))
    sources = [generator(i, 5) for i in IDS[:2]]
    (seen,) = passed(
        driver.pipeline, driver.models, prompt=list(TEXTS[:2]), generator=sources, **call
    )
    (ours,) = passed(
        driver.pipeline,
        driver.models,
        prompt=list(TEXTS[:2]),
        generator=sources,
        latents=driver.initial_noise(IDS[:2], 5),
        **call,
    )
    close(driver.latents_of(ours), driver.latents_of(seen))


def test_without_a_prompt_is_the_pipeline_s_unconditional_half(driver: Driver) -> None:
    schedule = driver.schedule(num_inference_steps=2, guidance_scale=2.0)
    if not driver.guided(schedule):
        pytest.skip(f"{driver.kind}: no rows without the prompt")
    time = driver.times(schedule)[0]
    seen: list[Tensor] = []
    outputs: list[Tensor] = []
    hooks = [
        model.register_forward_hook(lambda _, args, output: outputs.append(driver.raw(output[0])))
        for model in driver.models.values()
    ]
    with watched(driver.models, lambda arguments: seen.append(driver.latents_of(arguments))):
        own_run(driver, TEXTS[:2], scale=2.0, output_type="latent")
    for hook in hooks:
        hook.remove()
    place = driver.halves.index(UNCONDITIONAL)
    latents, own = (
        (seen[0].chunk(2)[place], outputs[0].chunk(2)[place])
        if driver.together
        else (seen[place], outputs[place])
    )
    with torch.no_grad():
        made = driver.predict(latents, time, driver.no_prompt.expand(2))
        told = driver.predict(latents, time, driver.encode(TEXTS[:2]))
    close(made, own)
    assert (told - own).abs().max() > 1e-4  # ten times what counts as equal


def test_counted_rows_do_not_depend_on_the_batch(driver: Driver) -> None:
    """What is counted at each site for a text alone is counted beside longer texts that may share
    its run."""
    parts = driver.alike(TEXTS)
    assert max(map(len, parts)) > 1
    for part in parts:
        texts, ids = [TEXTS[i] for i in part], [IDS[i] for i in part]
        together = driver.encode(texts)
        batched = inner_rows(driver, texts, ids)
        for place, (text, id_) in enumerate(zip(texts, ids, strict=True)):
            told = driver.encode([text])
            for (path, nth), rows in inner_rows(driver, [text], [id_]).items():
                alone = counted(driver, path, told, rows, nth)[0]
                beside = counted(driver, path, together, batched[path, nth], nth)[place]
                close(rows[0][alone], batched[path, nth][place][beside])
                if driver.stream(path).split(",")[nth] == "text":
                    assert told.text_rows is not None
                    assert alone.sum() == told.text_rows.sum()


def inner_rows(driver: Driver, texts: Any, ids: Any) -> dict[tuple[str, int], Tensor]:
    """The neurons' activations [images, rows, neurons] at each site, in each of its runs in a
    pipeline's first call."""
    found: dict[tuple[str, int], Tensor] = {}
    hooks = [
        site.contraction.register_forward_pre_hook(
            lambda _, args, path=path, site=site: keep(
                found, path, driver.runs(path), site.neurons_in(args[0]).flatten(1, -2)
            )
        )
        for path, site in find_sites(driver.model).items()
    ]
    own_run(driver, texts, ids=ids, scale=driver._unguided.guidance_scale, output_type="latent")
    for hook in hooks:
        hook.remove()
    return found


def keep(found: dict[tuple[str, int], Tensor], path: str, runs: int, rows: Tensor) -> None:
    nth = sum((path, nth) in found for nth in range(runs))
    if nth < runs:
        found[path, nth] = rows


def counted(driver: Driver, path: str, told: Conditioning, rows: Tensor, nth: int) -> Tensor:
    own = driver.counted(path, told.text_rows, rows.shape[1], nth)
    return torch.ones(rows.shape[:2], dtype=torch.bool) if own is None else own


def test_what_no_prompt_has_touched_may_be_replayed(driver: Driver) -> None:
    """An audit computes it once, without a prompt, for all prompts."""
    noise = driver.initial_noise(IDS[:1], 0)
    time = driver.times(driver.schedule(num_inference_steps=2))[0]
    told, rows = driver.encode(TEXTS), noise.expand(3, *noise.shape[1:])
    with torch.no_grad():
        prefix = Prefix(driver, lambda: driver.predict(noise, time, driver.no_prompt))
        whole = driver.predict(rows, time, told)
        with prefix.replayed(3):
            close(driver.predict(rows, time, told), whole)


def test_times_are_the_pipeline_s(driver: Driver) -> None:
    schedule = driver.schedule(num_inference_steps=3)
    times = driver.times(schedule)
    own_run(driver, TEXTS[:1], steps=3, output_type="latent")
    assert times == pytest.approx(driver.scheduler.timesteps.tolist())


def test_path_inverts_itself(driver: Driver) -> None:
    clean, noise = driver.initial_noise(["clean"], 0), driver.initial_noise(["noise"], 0)
    for level in (0.1, 0.5, 0.9):
        time = driver.path.time_of(level)
        noisy = driver.path.add(clean, noise, time)
        output = driver.path.target(clean, noise, time)
        close(driver.path.clean(output, noisy, time), clean, 1e-4)
        close(driver.path.noise(output, noisy, time), noise, 1e-4)


def test_levels_are_the_scheduler_s(driver: Driver) -> None:
    if not isinstance(driver.path, RectifiedFlow):
        pytest.skip(f"{driver.kind}: no rectified flow")
    own_run(driver, TEXTS[:1], steps=4, output_type="latent")
    sigmas = driver.scheduler.sigmas
    for time, sigma in zip(driver.scheduler.timesteps, sigmas, strict=False):
        level = driver.path.add(torch.zeros(1, 1), torch.ones(1, 1), time)
        close(level, sigma.reshape(1, 1), 1e-3)  # some schedulers round their times
        assert driver.path.time_of(float(level)) == pytest.approx(float(time), abs=1e-2)


def test_pictures_round_trip(driver: Driver) -> None:
    latents = driver.initial_noise(IDS[:2], 0)
    close(driver.pack(driver.unpack(latents)), latents)
    images = driver.decode(latents)
    assert images.shape == (2, 3, *driver.size)
    again = driver.encode_images(images)
    assert again.shape == latents.shape
    raw = driver.codec.restored(driver.unpack(latents))
    close(driver.codec.normalised(raw), driver.unpack(latents))


def test_another_size_may_be_asked_for(driver: Driver) -> None:
    """Twice as wide: as the pipeline's own run at that size."""
    height, width = driver.size
    if driver.kind == "HunyuanDiT":
        pytest.skip("HunyuanDiT: makes sizes of a list of its own")
    asked = driver_of(driver.owner, height=height, width=2 * width)
    assert asked.size == (height, 2 * width)
    own = own_run(asked, TEXTS[:1], 2, asked._unguided.guidance_scale, output_type="pt")[0]
    made = asked.generate(asked.encode(TEXTS[:1]), IDS[:1], 3, asked.schedule(asked._unguided))
    assert made.shape == (1, 3, height, 2 * width)
    close(made, asked.pictures(own), 1e-4)


def test_a_size_that_cannot_be_made_is_one_line(driver: Driver) -> None:
    with pytest.raises(InputError, match="height"):
        driver_of(driver.owner, height=driver.size[0] + 1)


def test_searched_leaves_have_gradients(driver: Driver) -> None:
    conditioning = driver.encode(TEXTS[:2])
    leaves = {n: leaf.clone().requires_grad_() for n, leaf in conditioning.searching().items()}
    clean, noise = driver.initial_noise(IDS[:2], 0), driver.initial_noise(IDS[:2], 1)
    times = driver.path.drawn(2, torch.Generator().manual_seed(0))
    with torch.enable_grad():
        loss = driver.loss(clean, conditioning.told(leaves), noise, times).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()))
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients)


def test_nothing_of_the_caller_s_is_changed(driver: Driver) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in driver.models.values()]
    driver.encode(TEXTS[:1])
    driver.times(driver.schedule())
    driver.generate(driver.no_prompt, ["x"], 0, driver.schedule(num_inference_steps=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert hooks == [
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in driver.models.values()
    ]


def test_truncated_texts_are_told(driver: Driver) -> None:
    assert driver.truncated(["a", "word " * 600]).tolist() == [False, True]
