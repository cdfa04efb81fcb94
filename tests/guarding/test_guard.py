"""A guard on every kind of pipeline: nothing changes but what is flagged, and that does."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from memfast.auditing.looking.settings import Settings
from memfast.auditing.looking.worker import Worker
from memfast.errors import InputError
from memfast.guarding.calibrating import calibrate_guard
from memfast.guarding.calibration import ByPrompt, BySteps, Footing, load_calibration
from memfast.guarding.guard import Guard, attach_guard
from memfast.guarding.policies import POLICIES, Refused
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.table import driver_of
from memfast.prompts import make_prompt
from tests.support.tiny.table import ONE_A_KIND, TINY, build, marked

TEXTS = ["a red cat", "b", "a dog on blue"]
REFERENCES = [f"{colour} {thing}" for colour in ("red", "blue", "a", "b", "c") for thing in "wxyz"]
SETTINGS = Settings(unit=4, threads=1)


class Bench:
    """One pipeline, its calibration, and a run of it from fixed noises."""

    def __init__(self, kind: str) -> None:
        self.pipeline: Any = build(kind)
        self.pipeline.set_progress_bar_config(disable=True)
        self.driver: Driver = driver_of(self.pipeline)
        made = calibrate_guard(self.pipeline, REFERENCES, settings=SETTINGS)
        assert isinstance(made, ByPrompt)
        self.calibration = made

    def by_steps(self, steps: int, num_inference_steps: int = 2) -> BySteps:
        settings = replace(SETTINGS, num_inference_steps=num_inference_steps)
        how: Any = {"look": "steps", "steps": steps, "settings": settings}
        made = calibrate_guard(self.pipeline, REFERENCES, **how)
        assert isinstance(made, BySteps)
        return made

    def run(self, texts: Any = TEXTS, steps: int = 2, **more: Any) -> Tensor:
        part = self.driver.alike(list(texts))[0].tolist()
        texts = [texts[place] for place in part]
        noise = self.driver.initial_noise([f"noise {n}" for n in part], 0)
        call = self.driver.call(len(texts), self.driver.schedule(num_inference_steps=steps))
        call |= {"latents": noise, "output_type": "latent", "return_dict": False, **more}
        sources = [torch.Generator().manual_seed(n) for n in part]
        made = self.pipeline(prompt=texts, generator=sources, **call)[0]
        return made if isinstance(made, Tensor) else torch.stack([*made])

    def guard(self, policy: Any, flags: Any = None, **how: Any) -> Guard:
        """A guard that flags the prompts whose score is above `flags`; its own where None."""
        guard = Guard(self.pipeline, self.calibration, policy, **how)
        if flags is not None:
            guard.threshold = flags
        return guard


@pytest.fixture(scope="module", params=marked(TINY, ONE_A_KIND))
def bench(request: Any) -> Bench:
    return Bench(request.param)


@pytest.fixture(scope="module")
def plain() -> Bench:
    return Bench("sd-v")


def hooks(pipeline: Any) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for part in pipeline.components.values()
        if isinstance(part, torch.nn.Module)
        for module in part.modules()
    )


def test_what_is_not_flagged_keeps_its_bits_and_the_pipeline_its_own(bench: Bench) -> None:
    kind, before, bare = type(bench.pipeline), hooks(bench.pipeline), bench.run()
    with bench.guard("note", torch.inf) as guard:
        assert type(bench.pipeline) is not kind
        assert isinstance(bench.pipeline, kind)
        assert torch.equal(bench.run(), bare)
    assert [record.flagged for record in guard.records] == [False] * len(bare)
    assert type(bench.pipeline) is kind
    assert hooks(bench.pipeline) == before
    assert torch.equal(bench.run(), bare)


def test_scores_are_an_audit_s(bench: Bench) -> None:
    made, learnt = bench.calibration, bench.calibration.learnt
    with bench.guard("note") as guard:
        bench.run()
    texts = [record.prompt for record in guard.records]
    with Worker(bench.pipeline, replace(made.settings, unit=len(texts))) as worker:
        block = worker.block(
            [make_prompt(text or "") for text in texts], learnt.names, learnt.baselines
        )
    found = torch.tensor([record.score for record in guard.records], dtype=torch.float64)
    torch.testing.assert_close(found, made.scores(block.scores), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("policy", ["blank", "reword", "renew"])
def test_one_of_a_batch_is_changed_alone(bench: Bench, policy: str) -> None:
    """The prompt of the highest score is flagged; the images of the others stay as they were."""
    with bench.guard("note", torch.inf) as guard:
        bare = bench.run()
    scores = torch.tensor([record.score for record in guard.records])
    if len(scores) < 2:
        pytest.skip("this kind makes such prompts one by one")
    order, calibration = scores.sort().values, bench.calibration
    with bench.guard(policy, float(order[-2:].mean())) as guard:
        assert guard.look is not None
        guard.look.calibration = replace(calibration, usual={0.05: 1e-9})  # reword moves all
        made = bench.run()
    flagged = torch.tensor([record.flagged for record in guard.records])
    assert flagged.sum() == 1
    assert bool(flagged[scores.argmax()])
    assert torch.equal(made[~flagged], bare[~flagged])
    assert not torch.equal(made[flagged], bare[flagged])
    record = guard.records[int(scores.argmax())]
    assert record.policy == policy
    assert record.withheld == (policy == "blank")
    assert (record.after is None) == (policy == "blank")
    if policy == "blank":
        assert not made[flagged].any()
    assert torch.equal(bench.run(), bare)


@pytest.mark.parametrize("kind", ["sd-v", "sd3", "chroma", "wan"])
def test_softened_to_nothing_is_the_run_without_a_prompt(kind: str) -> None:
    """Whether both halves share a call, or either comes first."""
    bench = Bench(kind)
    texts = [TEXTS[0]]
    made = bench.by_steps(1)
    none = replace(made, reference=torch.full_like(made.reference, 1e-30))
    guard = Guard(bench.pipeline, none, "soften")
    guard.threshold = -torch.inf
    bare = bench.run(texts)
    with guard:
        softened = bench.run(texts)
    assert [record.policy for record in guard.records] == ["soften"]
    assert not torch.allclose(softened, bare, atol=1e-4)
    torch.testing.assert_close(softened, bench.run([bench.driver.null]), rtol=1e-3, atol=1e-3)


def test_steps_see_what_they_were_calibrated_with(plain: Bench) -> None:
    made = plain.by_steps(3, 4)
    assert made.reference.shape == (len(REFERENCES), 3)
    with Guard(plain.pipeline, made, "note") as guard:
        ids = [make_prompt(text).id for text in REFERENCES[:3]]
        noise = plain.driver.initial_noise(ids, 0)
        call = plain.driver.call(3, plain.driver.schedule(num_inference_steps=4))
        plain.pipeline(prompt=REFERENCES[:3], latents=noise, output_type="latent", **call)
    found = torch.tensor([record.score for record in guard.records], dtype=torch.float64)
    torch.testing.assert_close(found, made.scores(made.reference[:3]), rtol=1e-4, atol=1e-4)
    bare = plain.run(steps=4)
    with guard:
        assert torch.equal(plain.run(steps=4), bare)


def test_embeddings_in_the_place_of_a_prompt_are_looked_at(plain: Bench) -> None:
    with plain.guard("note") as guard:
        plain.run()
        by_text = [record.score for record in guard.records]
        told = plain.driver.encode(TEXTS).leaves["encoder_hidden_states"]
        call = plain.driver.call(3, plain.driver.schedule(num_inference_steps=2))
        plain.pipeline(prompt_embeds=told, negative_prompt_embeds=torch.zeros_like(told), **call)
    assert [record.prompt for record in guard.records] == [None] * 3
    assert [record.score for record in guard.records] == by_text
    assert guard.counts["looked at"] == 3  # they are remembered by what the denoiser is told


def test_every_image_of_a_prompt_has_its_record_and_one_look(plain: Bench) -> None:
    with plain.guard("blank", -torch.inf) as guard:
        made = plain.pipeline("a red cat", num_images_per_prompt=3, num_inference_steps=1)
    assert guard.counts["looked at"] == 1
    assert [record.withheld for record in guard.records] == [True] * 3
    assert all(image.getextrema() == ((0, 0),) * 3 for image in made.images)


def test_a_user_s_callback_is_kept(plain: Bench) -> None:
    seen: list[int] = []

    def callback(pipeline: Any, step: int, time: Any, given: dict) -> dict:
        seen.append(step)
        return given

    with plain.guard("reword", -torch.inf):
        plain.run(callback_on_step_end=callback)
    assert seen == [0, 1]


def test_renewed_images_start_from_other_noises(plain: Bench) -> None:
    """Two images of a flagged prompt get two noises; the draws of the others are as they were."""
    texts = ["b", "b", "a red cat"]
    call = {"num_inference_steps": 2, "output_type": "latent"}
    bare = plain.pipeline(texts, generator=torch.Generator().manual_seed(5), **call)[0]
    with plain.guard("note") as guard:
        plain.pipeline(texts, **call)
        low, high = sorted({record.score or 0.0 for record in guard.records})
        of_b = guard.records[0].score
    flag = low if of_b == high else None
    if flag is None:  # else the other prompt scores higher: turn the order of the scores around
        pytest.skip("b is the less suspicious one here")
    with plain.guard("renew", (low + high) / 2):
        made = plain.pipeline(texts, generator=torch.Generator().manual_seed(5), **call)[0]
    assert torch.equal(made[2], bare[2])
    assert not torch.equal(made[0], bare[0])
    assert not torch.equal(made[0], made[1])


def test_compiled_denoisers_are_guarded(plain: Bench) -> None:
    bench = Bench("sd-v")
    bench.pipeline.unet = torch.compile(bench.pipeline.unet, backend="eager")
    bare = bench.run()
    with bench.guard("note") as guard:
        assert torch.equal(bench.run(), bare)
    with plain.guard("note") as uncompiled:
        plain.run()
    scores = [[record.score for record in each.records] for each in (guard, uncompiled)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_refusal_names_the_prompt_and_leaves_the_pipeline_usable(plain: Bench) -> None:
    with plain.guard("refuse", -torch.inf), pytest.raises(Refused, match="'a red cat'"):
        plain.run()
    assert torch.equal(plain.run(), plain.run())


class Everything:
    """An index in which every image is a training image."""

    def copies(self, images: Tensor) -> list[str | None]:
        assert images.shape[1] == 3
        assert images.min() >= 0
        assert images.max() <= 1
        return ["training.png"] * len(images)


@pytest.mark.parametrize("kind", ["pil", "np", "pt"])
def test_verified_copies_are_withheld(plain: Bench, kind: str) -> None:
    """Flagged or not."""
    guard = plain.guard("note", torch.inf)
    guard.policies, guard.index = ("verify",), Everything()  # type: ignore[assignment]
    with guard:
        made = plain.pipeline(TEXTS, num_inference_steps=1, output_type=kind).images
    assert [(r.flagged, r.copied, r.withheld) for r in guard.records] == [
        (False, "training.png", True)
    ] * 3
    assert guard.counts["withheld"] == 3
    assert len(made) == 3
    assert all(not np.asarray(image).any() for image in made)
    if kind == "pil":
        assert isinstance(made[0], Image.Image)
    with guard, pytest.raises(InputError, match="output_type must be pil, np or pt"):
        plain.run()


def test_the_same_after_a_file(plain: Bench, tmp_path: Any) -> None:
    for made in (plain.calibration, plain.by_steps(2)):
        made.save(tmp_path / "g.safetensors")
        found = load_calibration(tmp_path / "g.safetensors")
        assert type(found) is type(made)
        assert found.footing == made.footing
        if isinstance(made, ByPrompt) and isinstance(found, ByPrompt):
            assert found.usual == made.usual
            assert [*found.usual] == [0.6, 0.3, 0.05]
        with Guard(plain.pipeline, found, "note") as guard:
            plain.run()
        with Guard(plain.pipeline, made, "note") as other:
            plain.run()
        assert guard.records == other.records
        (tmp_path / "g.safetensors").unlink()


def test_a_threshold_is_exceeded_by_a_share_of_the_groups() -> None:
    """Ten near-duplicates that stand out together are one observation."""
    scores = torch.arange(30, dtype=torch.float64)
    apart = Footing.of("m", scores, range(30), 0.1)
    assert (apart.threshold, apart.rate, apart.groups) == (26.0, 0.1, 30)
    alike = Footing.of("m", scores, [*range(20), *[20] * 10], 0.1)
    assert (alike.threshold, alike.rate, alike.references, alike.groups) == (18.0, 0.1, 30, 21)
    few = Footing.of("m", scores, [0] * 15 + [1] * 15, 0.1)
    assert (few.threshold, few.rate) == (29.0, 0.5)


def refusals(plain: Bench, tmp_path: Any) -> list[tuple[Any, str]]:
    pipeline, made = plain.pipeline, plain.calibration
    steps = plain.by_steps(1)
    other, flux = build("sd-distilled"), build("flux-schnell")
    lcm = build("lcm")
    return [
        (lambda: Guard(pipeline, tmp_path / "none.safetensors"), "none.safetensors"),
        (lambda: Guard(pipeline, tmp_path), "not an audit's folder"),
        (lambda: Guard(other, made), "calibration: of another model"),
        (lambda: Guard(pipeline, made, "shout"), "policy 'shout': must be of note, refuse"),
        (lambda: Guard(pipeline, made, "soften"), "needs a calibration by steps"),
        (lambda: Guard(pipeline, steps, "reword"), "needs a calibration by prompt"),
        (lambda: Guard(pipeline, made, "verify"), "needs index="),
        (lambda: Guard(pipeline, made, "verify", index=tmp_path), "no index of images"),
        (lambda: calibrate_guard(pipeline, REFERENCES[:3]), "3 prompts are too few; at least 20"),
        (
            lambda: calibrate_guard(pipeline, REFERENCES, look="twice"),
            "must be one of prompt, steps",
        ),
        (lambda: calibrate_guard(pipeline, REFERENCES, fpr=1.0), "must lie between 0 and 1"),
        (lambda: calibrate_guard(flux, REFERENCES, look="steps"), "runs without guidance"),
        (lambda: calibrate_guard(lcm, REFERENCES, look="steps"), "runs without guidance"),
        (lambda: calibrate_guard(pipeline, REFERENCES, look="steps", steps=99), "must be 1 to"),
    ]


def test_what_cannot_be_guarded_is_one_line_before_the_first_step(
    plain: Bench, tmp_path: Any
) -> None:
    for attempt, says in refusals(plain, tmp_path):
        with pytest.raises(InputError, match=says) as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_another_schedule_is_refused_before_the_first_step(plain: Bench) -> None:
    with Guard(plain.pipeline, plain.by_steps(1), "note"):
        with pytest.raises(
            InputError, match=r"calibrated for 2 steps and guidance .*, called with 3"
        ):
            plain.run(steps=3)
        with pytest.raises(InputError, match="this call has no guidance"):
            plain.run(guidance_scale=1.0)


def test_one_guard_at_a_time(plain: Bench) -> None:
    guard = attach_guard(plain.pipeline, plain.calibration, "note")
    with pytest.raises(InputError, match="has a guard already"):
        attach_guard(plain.pipeline, plain.calibration, "note")
    guard.detach()
    guard.detach()


def test_every_policy_is_tried_in_turn(plain: Bench) -> None:
    """What rewording cannot settle gets the next policy."""
    with plain.guard(["reword", "blank"], -torch.inf) as guard:
        plain.run()
    assert all(record.withheld and record.policy == "blank" for record in guard.records)
    assert all(record.after is not None for record in guard.records)
    assert set(guard.counts) >= {"images", "flagged", "policy blank", "withheld"}
    assert [*POLICIES] == ["note", "refuse", "blank", "reword", "renew", "soften", "verify"]
