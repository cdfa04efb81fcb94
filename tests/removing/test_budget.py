"""Shrinking to a target, by hand-computed cases and on a tiny pipeline."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

from memfast import InputError, NeuronStatistics, Subspace, collect, compact, ffn_sites, shrink
from memfast.blocks.families import find_sites
from memfast.blocks.families.examples import tiny
from memfast.blocks.sizes import size_of
from memfast.choosing.importance import importance
from memfast.removing.budget import costs, widen
from tests.support.models import random_subspace, statistics

SHORT = {"steps": 2, "num_inference_steps": 4, "guidance_scale": 2.0}


def test_widen_takes_the_least_needed_for_their_cost() -> None:
    located = Subspace({"a": torch.tensor([True, False, False, False]), "b": torch.zeros(2).bool()})
    ranking = {"a": torch.tensor([9.0, 2.0, 8.0, 6.0]), "b": torch.tensor([5.0, 3.0])}
    cost = {"a": 1.0, "b": 2.0}  # for their cost: a 9, 2, 8, 6; b 2.5, 1.5
    # half of 8 is 4: a0 is located (1), then b1 (2), then a1 (1)
    wider = widen(located, ranking, cost, 0.5)
    assert wider.neurons["a"].tolist() == [True, True, False, False]
    assert wider.neurons["b"].tolist() == [False, True]
    assert located.removed == 1


def test_widen_keeps_the_best_neuron_of_every_site() -> None:
    none = Subspace({"a": torch.zeros(3).bool(), "b": torch.zeros(3).bool()})
    ranking = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([4.0, 5.0, 6.0])}
    wider = widen(none, ranking, {"a": 1.0, "b": 1.0}, 0.99)
    assert wider.neurons["a"].tolist() == wider.neurons["b"].tolist() == [True, True, False]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("of", ["parameters", "flops", "neurons"])
def test_the_target_is_met(of: str, share: float) -> None:
    model = tiny("SD 1.4")
    reference = statistics("SD 1.4", model, 3)
    reference.header["prompts"] = 2
    sites = find_sites(model)
    subspace = shrink(model, reference, share, of=of)
    cost = costs(sites, of, reference)
    total = sum(cost[path] * site.neurons for path, site in sites.items())
    gone = sum(cost[path] * int(mask.sum()) for path, mask in subspace.neurons.items())
    assert share * total - max(cost.values()) < gone <= share * total
    if of == "parameters":
        before, after = size_of(model), size_of(compact(model, subspace, multiple_of=1))
        assert before.parameters - after.parameters == gone
        assert before.feed_forward == total


def test_flops_follow_the_rows() -> None:
    model = tiny("SD 1.4")
    reference = statistics("SD 1.4", model, 3)
    reference.header["prompts"] = 2
    sites = find_sites(model)
    cost, neurons = costs(sites, "flops", reference), costs(sites, "neurons", reference)
    assert set(neurons.values()) == {1.0}
    per_row = {path: cost[path] / (2 * site.parameters_per_neuron) for path, site in sites.items()}
    assert set(per_row.values()) == {64.0, 16.0}  # 8 x 8 latents, and the level below


def test_located_neurons_stay_located(tiny_pipeline: StableDiffusionPipeline) -> None:
    model = tiny_pipeline.unet
    reference = collect(tiny_pipeline, ["red b", "blue c"], **SHORT)
    located = random_subspace(model, 0.1)
    wider = shrink(model, reference, 0.5, subspace=located)
    assert all(bool((wider.neurons[p] >= m).all()) for p, m in located.neurons.items())
    assert wider.density == pytest.approx(0.5, abs=0.01)
    assert set(wider.mean) == set(ffn_sites(model))


def test_importance_is_the_share_of_output_variance() -> None:
    model = tiny("SD 1.4")
    reference = statistics("SD 1.4", model, 3)
    for path, ranking in importance(find_sites(model), reference).items():
        weight = find_sites(model)[path].contraction.weight.detach().double()
        energy = reference[path].variance[0] * weight.square().sum(0)
        order = energy.argsort()
        assert bool((ranking[order].diff() >= 0).all())


def test_any_ranking_will_do() -> None:
    model = tiny("SD 1.4")
    ranking = {path: torch.arange(n).float() for path, n in ffn_sites(model).items()}
    subspace = shrink(model, statistics("SD 1.4", model, 3), 0.25, of="neurons", ranking=ranking)
    assert all(mask[:10].all() for mask in subspace.neurons.values())


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_shares_outside_0_and_1(share: float) -> None:
    model = tiny("SD 1.4")
    with pytest.raises(InputError, match="between 0 and 1"):
        shrink(model, statistics("SD 1.4", model, 3), share)


def test_statistics_of_another_model_and_unknown_measures() -> None:
    model = tiny("SD 1.4")
    reference = statistics("SD 1.4", model, 3)
    with pytest.raises(InputError, match="parameters, flops, neurons, not 'bytes'"):
        shrink(model, reference, 0.5, of="bytes")
    other = NeuronStatistics(reference.moments, {"model": "abc"})
    with pytest.raises(InputError, match="another model"):
        shrink(model, other, 0.5)
