"""locate against the naive oracle of the paper and plain rankings; bad input."""

import pytest
import torch

import memfast
from memfast.errors import InputError
from memfast.pipelines.noise import generator
from memfast.prompts import make_prompt
from memfast.statistics import NeuronStatistics
from tests.support import oracle

MEMORIZED = ["a cat", "a dog", "c cat"]
REFERENCE = ["red b", "blue c"]
SHORT = {"steps": 3, "num_inference_steps": 4}


def noisy(texts: list[str]) -> list[tuple[str, torch.Generator]]:
    return [(text, generator(make_prompt(text).id, 0)) for text in texts]


@pytest.mark.parametrize("reference", [REFERENCE, [""]], ids=["captions", "null"])
def test_the_paper_to_the_letter(tiny_pipeline, reference):
    """Weight for weight, but where two scores tie to the last float (none here)."""
    paper = {**SHORT, "rows": "both", "row_normalised": True}
    sets = [memfast.collect(tiny_pipeline, texts, **paper) for texts in (MEMORIZED, reference)]
    naive = [oracle.norms(tiny_pipeline, noisy(texts), **SHORT) for texts in (MEMORIZED, reference)]
    for share, min_steps, ratio in ((0.05, 1, 0.0), (0.3, 1, 0.0), (0.3, 2, 0.34), (0.3, 3, 0.67)):
        found = memfast.locate(
            *sets, tiny_pipeline.unet, rule="paper", fraction=share, min_steps=min_steps
        )
        expected = oracle.masks(tiny_pipeline, *naive, share, ratio)
        assert set(found.sites) == set(expected)
        differing = sum(int((found.weights[s] ^ expected[s]).sum()) for s in expected)
        assert differing == 0
        assert found.removed > 0


@pytest.fixture(scope="module")
def _collected() -> list[NeuronStatistics]:
    return []


@pytest.fixture
def sets(tiny_pipeline, _collected) -> tuple[NeuronStatistics, NeuronStatistics]:
    """Statistics of both lists, collected once: every tiny pipeline has the same weights."""
    if not _collected:
        for texts in (MEMORIZED, REFERENCE):
            _collected.append(memfast.collect(tiny_pipeline, texts, **SHORT, prompt_norms=True))
    return _collected[0], _collected[1]


def contrast(sets, path: str) -> torch.Tensor:
    """n_memorized - n_reference, float64 [steps, neurons]."""
    ours, theirs = (each[path].variance + each[path].mean.square() for each in sets)
    return ours.sqrt() - theirs.sqrt()


def weights(pipeline) -> dict[str, torch.Tensor]:
    return {
        path: pipeline.unet.get_submodule(f"{path}.net.2").weight.detach()
        for path in memfast.ffn_sites(pipeline.unet)
    }


def test_neurons_are_ranked_over_all_sites(tiny_pipeline, sets):
    found = memfast.locate(*sets, tiny_pipeline.unet, fraction=0.1)
    scores = {
        path: weight.double().norm(dim=0) * contrast(sets, path).mean(0)
        for path, weight in weights(tiny_pipeline).items()
    }
    every = torch.cat(list(scores.values()))
    least = every.sort(descending=True).values[int(0.1 * len(every)) - 1]
    for path, score in scores.items():
        assert torch.equal(found.neurons[path], score >= least)
    assert found.header["score"] == "difference"
    means = [sets[1][path].mean for path in scores]
    for path, mean in zip(scores, means, strict=True):
        torch.testing.assert_close(found.mean[path].double(), mean.mean(0), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("how", "needed"),
    [
        ({"over_steps": "union"}, 1),
        ({"over_steps": "minimum", "min_steps": 2}, 2),
        ({"min_steps": 2}, 2),
        ({"over_steps": "intersection"}, 3),
    ],
)
def test_steps_combine(tiny_pipeline, sets, how, needed):
    settings = {"rule": "weights", "fraction": 0.2}
    found = memfast.locate(*sets, tiny_pipeline.unet, **settings, **how)
    for path, weight in weights(tiny_pipeline).items():
        times = torch.zeros_like(weight)
        for step in contrast(sets, path).float():
            scores = weight.abs() * step
            best = scores.sort(dim=1, descending=True, stable=True).indices
            times.scatter_add_(1, best[:, : int(0.2 * weight.shape[1])], torch.ones_like(times))
        assert torch.equal(found.weights[path], times >= needed)


def test_fewer_steps(tiny_pipeline, sets):
    how = {"rule": "weights", "fraction": 0.2, "over_steps": "union"}
    nested = [memfast.locate(*sets, tiny_pipeline.unet, **how, steps=n) for n in (1, 3)]
    for path in nested[0].sites:
        assert bool((nested[1].weights[path] | ~nested[0].weights[path]).all())
    assert nested[0].removed < nested[1].removed


@pytest.mark.parametrize("score", ["wanda", "z", "welch"])
def test_every_score_of_neurons_ranks(tiny_pipeline, sets, score):
    found = memfast.locate(*sets, tiny_pipeline.unet, fraction=0.25, score=score, per="site")
    assert {float(mask.float().mean()) for mask in found.neurons.values()} == {0.25}


def test_no_mean_from_normalised_rows(tiny_pipeline):
    paper = {**SHORT, "rows": "both", "row_normalised": True}
    both = [memfast.collect(tiny_pipeline, texts, **paper) for texts in (["a"], ["b"])]
    assert not memfast.locate(*both, tiny_pipeline.unet, fraction=0.1).mean


BAD = {
    "rule": ({"rule": "papers"}, "rule must be one of"),
    "fraction": ({"fraction": 1.5}, "between 0 and 1"),
    "score": ({"score": "nonsense"}, "score must be one of"),
    "score of paper": ({"rule": "paper", "score": "z"}, "score of its own"),
    "per": ({"per": "row"}, "per must be one of global, site"),
    "over_steps": ({"rule": "paper", "over_steps": "mean"}, "over_steps must be one of"),
    "steps": ({"steps": 4}, "between 1 and 3"),
    "min_steps": ({"min_steps": 4}, "between 1 and 3"),
    "min_steps of union": ({"min_steps": 2, "over_steps": "union"}, "for over_steps 'minimum'"),
    "tiny": ({"rule": "paper", "fraction": 0.001}, "less than one"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(tiny_pipeline, sets, name):
    how, reason = BAD[name]
    with pytest.raises(InputError, match=reason):
        memfast.locate(*sets, tiny_pipeline.unet, **({"fraction": 0.1} | how))


def test_prompts_in_both_sets_are_named(tiny_pipeline, sets):
    memorized, _ = sets
    shared = make_prompt("a dog").id
    reference = memfast.collect(tiny_pipeline, ["a dog", "b"], **SHORT, prompt_norms=True)
    with pytest.raises(InputError, match=f"both memorized and reference: {shared}$"):
        memfast.locate(memorized, reference, tiny_pipeline.unet, fraction=0.1)


def test_statistics_of_another_model_are_refused(tiny_pipeline, sets):
    with torch.no_grad():
        next(tiny_pipeline.unet.parameters()).add_(1)  # not a weight of a feed-forward
    with pytest.raises(InputError, match="another model"):
        memfast.locate(*sets, tiny_pipeline.unet, fraction=0.1)


def test_statistics_of_no_prompt_are_refused(tiny_pipeline, sets):
    memorized, reference = sets
    nothing = NeuronStatistics(
        {s: type(m)(*(torch.zeros_like(t) for t in vars(m).values())) for s, m in
         reference.moments.items()},
        {**reference.header, "prompt_ids": [], "text_ids": []},
    )  # fmt: skip
    with pytest.raises(InputError, match="no prompt at all"):
        memfast.locate(memorized, nothing, tiny_pipeline.unet, fraction=0.1)
