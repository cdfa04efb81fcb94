"""Pruning of the feed-forwards: the paper's weight masks, whole neurons, and random controls."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from memfast.blocks.families import find_sites
from memfast.choosing.locating import locate
from memfast.evaluation.mitigations.interface import Setting, Treated
from memfast.measuring.cases import Cases
from memfast.measuring.losses import denoising_loss, matched
from memfast.observing.collecting import collect
from memfast.observing.sensitivity import collect_sensitivity
from memfast.pipelines.drivers.driver import Driver
from memfast.prompts import Prompt, PromptSet
from memfast.removing.compact import compact
from memfast.removing.masking import prune
from memfast.selection import Subspace, random_like
from memfast.statistics import NeuronStatistics, reference_mean


def statistics(setting: Setting, cases: Cases, paper: bool) -> NeuronStatistics:
    """Statistics of the captions over the first half of the schedule, at most 10 steps."""
    steps = min(10, max(1, setting.schedule.num_inference_steps // 2))
    rows = {"rows": "both", "row_normalised": True} if paper else {}
    return _collected(setting, cases, steps, **rows)


def reference_means(setting: Setting) -> dict[str, Tensor]:
    """Each neuron's mean activation on the reference captions, over the whole schedule."""
    steps = setting.schedule.num_inference_steps
    return reference_mean(_collected(setting, setting.reference, steps))


def _collected(setting: Setting, cases: Cases, steps: int, **rows: Any) -> NeuronStatistics:
    return collect(
        setting.driver.pipeline,
        PromptSet.of([Prompt(case.id, case.text) for case in cases.cases]),
        steps=steps,
        seed=setting.seed,
        **setting.driver.request(setting.schedule),
        **rows,
    )


def removing(setting: Setting, subspace: Subspace) -> Treated:
    """The model without a subspace: compact where whole neurons go, masked where weights go.

    Each neuron's mean, where the subspace carries it, is folded into the bias.
    """
    make = compact if subspace.kind == "neurons" else prune
    treated = make(setting.driver.model, subspace, compensate="mean")
    driver = setting.driver.with_model(treated)
    return Treated(driver, removed=subspace.density, mean=subspace.mean)


def located(rule: str, setting: Setting) -> Treated:
    """What `locate` finds between the located and as many reference captions, removed.

    Nothing is compensated. Equal numbers, since the paper's contrast compares norms that are
    summed over captions.
    """
    paper = rule == "paper"
    memorized = statistics(setting, setting.located, paper)
    count = min(len(setting.located), len(setting.reference))
    reference = statistics(setting, setting.reference.part(range(count)), paper)
    model = setting.driver.model
    subspace = locate(memorized, reference, model, rule=rule, fraction=setting.fraction)
    return removing(setting, Subspace(**{subspace.kind: subspace.masks}))


def least_needed(setting: Setting) -> Treated:
    """What the reference captions need least, removed, its mean folded into the biases.

    No memorized caption is used. At most 24 captions, with images that the model makes of them.
    """
    driver = setting.driver
    prompts = [Prompt(case.id, case.text) for case in setting.reference.cases[:24]]
    found = collect_sensitivity(
        driver.pipeline,  # type: ignore[arg-type]
        PromptSet.of(prompts),
        seed=setting.seed,
        **setting.driver.request(setting.schedule),
    )
    subspace = locate(None, found, driver.model, rule="reference", fraction=setting.fraction)
    return removing(setting, subspace)


def drawn(setting: Setting, kind: str, density: float, mean: Mapping[str, Tensor]) -> Subspace:
    """A random subspace of that density, by the setting's seed, with the means of a method."""
    masks = {}
    for path, site in find_sites(setting.driver.model).items():
        shape = (site.neurons,) if kind == "neurons" else tuple(site.weight.shape)
        masks[path] = torch.zeros(shape, dtype=torch.bool)
    flat = torch.cat([mask.flatten() for mask in masks.values()])
    flat[: round(density * len(flat))] = True
    parts = flat.split([mask.numel() for mask in masks.values()])
    whole = {p: part.view_as(masks[p]) for p, part in zip(masks, parts, strict=True)}
    return random_like(Subspace(**{kind: whole}, mean=mean), setting.seed)


def at_density(kind: str, treated: Treated, setting: Setting) -> Treated:
    """Control: as many random neurons or weights as a method removed, compensated as it was."""
    return removing(setting, drawn(setting, kind, treated.removed, treated.mean))


def at_damage(kind: str, treated: Treated, setting: Setting) -> Treated:
    """Control: as many random neurons or weights, compensated as a method's were, as raise the
    reference loss to the method's."""

    def loss(driver: Driver) -> float:
        return float(denoising_loss(driver, setting.reference).nanmean())

    def damage(share: float) -> float:
        model = prune(setting.driver.model, chosen(share), compensate="mean")
        return loss(setting.driver.with_model(model))

    chosen = partial(drawn, setting, kind, mean=treated.mean)
    return removing(setting, chosen(matched(damage, loss(treated.driver))))
