"""Every mitigation is tested by being entered; then each by what its paper says."""

import pytest
import torch

from memfast.blocks.families import find_sites
from memfast.evaluation.given import given, shifted
from memfast.evaluation.mitigations import (
    MITIGATIONS,
    Setting,
    Treated,
    attention,
    prompt_embedding,
    value_neurons,
)
from memfast.evaluation.mitigations.interface import plain
from memfast.evaluation.mitigations.pruning import at_damage, at_density, drawn, reference_means
from memfast.measuring.losses import denoising_loss, matched
from memfast.pipelines.drivers.alpha_bar.stable_diffusion import EMBEDDINGS
from memfast.pipelines.drivers.table import driver_of
from memfast.removing.compact import compact
from tests.support.planted import SCHEDULE, cases_of

TEXTS, IDS = ["a cat", "red b"], ["x", "y"]


@pytest.fixture
def setting(tiny_pipeline):
    located = cases_of(["a cat", "a dog on blue"])
    reference = cases_of(["red b", "blue c", "c c", "on on"], seed=1)
    driver = driver_of(tiny_pipeline)
    guided = driver.schedule(SCHEDULE, guidance_scale=2.0)
    return Setting(driver, located, reference, guided, fraction=0.3)


def images_of(treated, setting, seed=0):
    return treated.generate(treated.driver, TEXTS, IDS, seed, setting.schedule)


@pytest.mark.parametrize("name", MITIGATIONS)
def test_every_mitigation(name, setting):
    entry, model = MITIGATIONS[name], setting.driver.model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    untouched = plain(setting.driver, TEXTS, IDS, 0, setting.schedule)
    treated = entry.apply(setting)
    images = images_of(treated, setting)
    assert images.shape == untouched.shape
    assert images.isfinite().all()
    assert torch.equal(images, images_of(treated, setting))
    if entry.lives_in == "pipeline":
        assert treated.driver.model is model
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert torch.equal(plain(setting.driver, TEXTS, IDS, 0, setting.schedule), untouched)


def test_rescaling_by_one_with_every_token_is_plain(setting, monkeypatch):
    driver = setting.driver
    kept = torch.ones(2, 12, dtype=torch.bool)
    untouched = plain(driver, TEXTS, IDS, 0, setting.schedule)
    monkeypatch.setattr(attention, "SCALE", 1.0)
    with attention.rescaled(driver.model, kept):
        same = plain(driver, TEXTS, IDS, 0, setting.schedule)
    torch.testing.assert_close(same, untouched, atol=1e-5, rtol=0)


def test_rescaling_hides_summary_tokens_and_spares_unconditional_rows(setting):
    """By hand on one cross-attention: softmax over the kept tokens with the first logit scaled."""
    module = next(iter(attention.cross_attentions(setting.driver.model).values()))
    torch.manual_seed(0)
    hidden = torch.randn(2, 5, module.to_q.in_features)
    encoded = torch.randn(2, 6, module.to_k.in_features)
    kept = torch.tensor([[True, True, True, False, False, False]])
    got = attention.Rescaled(kept)(module, hidden, encoded)
    with torch.no_grad():
        expected = []
        for row in range(2):
            query, key, value = module.to_q(hidden[row]), module.to_k(encoded[row]), None
            value = module.to_v(encoded[row])
            heads = []
            for q, k, v in zip(
                query.chunk(module.heads, 1),
                key.chunk(module.heads, 1),
                value.chunk(module.heads, 1),
                strict=True,
            ):
                logits = q @ k.T * module.scale
                if row == 1:
                    logits[:, 0] *= 1.25
                    logits[:, 3:] = float("-inf")
                heads.append(logits.softmax(1) @ v)
            expected.append(module.to_out[0](torch.cat(heads, 1)))
    torch.testing.assert_close(got, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_kept_tokens_end_with_the_end_token(setting):
    kept = attention.kept_tokens(setting.driver, ["a b", "a b c b"])
    assert kept.sum(1).tolist() == [4, 6]
    assert kept[:, 0].all()


def test_prompt_embedding_stops_at_its_target(setting):
    driver = setting.driver
    time = driver.times(setting.schedule)[0]
    latents, empty = driver.initial_noise(IDS, 0), driver.encode(["", ""])
    with torch.no_grad():
        unconditional = driver.predict(latents, time, empty)

        def norms(embedding):
            return prompt_embedding.guidance_norm(driver, latents, time, embedding, unconditional)

        before = norms(driver.encode(TEXTS))
        untouched = prompt_embedding.lowered(driver, TEXTS, IDS, 0, time, float(before.max()) + 1)
        own = driver.encode(TEXTS).leaves[EMBEDDINGS]
        assert torch.equal(untouched.leaves[EMBEDDINGS], own)
    with torch.enable_grad():
        lowered = prompt_embedding.lowered(driver, TEXTS, IDS, 0, time, 0.0)
    with torch.no_grad():
        assert (norms(lowered) < before).all()


def test_blocking_equals_zero_rows_and_ends(setting):
    layers = value_neurons.value_layers(setting.driver.model)
    assert layers
    assert all(path.startswith(("down_blocks", "mid_block")) for path in layers)
    embedding = setting.driver.encode(["a cat"]).leaves[EMBEDDINGS]
    path, layer = next(iter(layers.items()))
    with torch.no_grad():
        free = layer(embedding)
        with value_neurons.blocking(layers, {path: {0, 3}}):
            blocked = layer(embedding)
        assert (blocked[..., [0, 3]] == 0).all()
        kept = [i for i in range(layer.out_features) if i not in (0, 3)]
        assert torch.equal(blocked[..., kept], free[..., kept])
        assert torch.equal(layer(embedding), free)


def test_refinement_keeps_what_is_needed_and_only_that():
    """A caption whose copy needs neuron 3 of one layer alone; layers and the others are spared."""
    blocked = {"first": set(range(8)), "second": {1, 2}}
    calls = []

    def similarity(candidate):
        calls.append(candidate)
        return 0.1 if 3 in candidate["first"] else 0.9

    assert value_neurons._refined(blocked, similarity, 0.5) == {"first": {3}, "second": set()}
    assert len(calls) < 10


def removed(setting, share, mean=None):
    """A method that took out that share of everything, as its controls see it."""
    return Treated(setting.driver, removed=share, mean=mean or {})


@pytest.mark.parametrize("kind", ["neurons", "weights"])
def test_controls_have_the_density_asked_for(kind, setting):
    treated = at_density(kind, removed(setting, 0.25), setting)
    assert treated.removed == pytest.approx(0.25, abs=0.001)
    unguided = setting.driver.schedule(SCHEDULE)
    other = Setting(setting.driver, setting.located, setting.reference, unguided, seed=1)
    draws = [
        torch.cat(
            [p.flatten() for p in at_density(kind, removed(s, 0.25), s).driver.model.parameters()]
        )
        for s in (setting, other)
    ]
    assert draws[0].shape != draws[1].shape or not torch.equal(*draws)


@pytest.mark.parametrize("name", [n for n, entry in MITIGATIONS.items() if entry.control])
def test_controls_are_compensated_as_their_method_is(name, setting):
    """By hand: a control's last biases move by its removed columns times the method's means."""
    entry = MITIGATIONS[name]
    treated = entry.apply(setting)
    assert bool(treated.mean) == shifted(setting.driver.model, treated.driver.model)
    assert bool(treated.mean) == (name == "least-needed")
    for control in (at_density, at_damage):
        made = control(entry.control, treated, setting)
        assert made.mean == treated.mean
        gone = drawn(setting, entry.control, made.removed, {})
        after = find_sites(made.driver.model)
        for path, site in find_sites(setting.driver.model).items():
            weight = site.contraction.weight.detach()[:, site.columns]
            mean = treated.mean.get(path, torch.zeros(site.neurons))
            expected = site.contraction.bias + (weight * gone.masks[path]) @ mean
            torch.testing.assert_close(after[path].contraction.bias, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("compensate", ["none", "mean"])
def test_controls_of_a_given_model_are_compensated_as_it_is(compensate, setting):
    mean = reference_means(setting)
    masks = drawn(setting, "neurons", 0.4, mean)
    model = compact(setting.driver.model, masks, compensate=compensate)
    treated = given(setting.driver, setting.driver.with_model(model)).apply(setting)
    assert list(treated.mean) == (list(mean) if compensate == "mean" else [])
    for path, values in treated.mean.items():
        assert torch.equal(values, mean[path])


def test_a_control_of_equal_damage(setting):
    """Damage grows with the share here, so the bisection lands on the target from above."""
    before = float(denoising_loss(setting.driver, setting.reference).mean())
    half = at_density("weights", removed(setting, 0.5), setting)
    target = float(denoising_loss(half.driver, setting.reference).mean())
    treated = at_damage("weights", half, setting)
    reached = float(denoising_loss(treated.driver, setting.reference).mean())
    assert abs(reached - target) <= abs(before - target) + 1e-9


def test_matched_bisects():
    assert matched(lambda share: share**2, 0.25, steps=20) == pytest.approx(0.5, abs=1e-5)
    assert matched(lambda share: 0.0, 1.0) == 1.0


def test_loss_is_equal_for_equal_ids_and_unknown_without_images(setting):
    cases = setting.reference
    loss = denoising_loss(setting.driver, cases)
    again = denoising_loss(setting.driver, cases.part([2, 0]))
    torch.testing.assert_close(again, loss[[2, 0]], atol=1e-5, rtol=1e-5)
    assert not torch.equal(denoising_loss(setting.driver, cases, seed=1), loss)
