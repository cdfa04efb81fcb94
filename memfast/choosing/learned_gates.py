"""learn_gates: one gate a neuron, closed by descent wherever memorized prompts alone need it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from memfast_kernels import Moments
from torch import Tensor
from typing_extensions import Unpack

from memfast.blocks.families import find_sites
from memfast.errors import InputError
from memfast.observing.collecting import Kept, Settings, header_of
from memfast.observing.scaling import gated
from memfast.observing.sensitivity import collect_sensitivity
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.noise import generator
from memfast.pipelines.pictures import clean_latents
from memfast.pipelines.schedule import Request
from memfast.precision import Gradients, wide
from memfast.progress import Advance, only_stage
from memfast.prompts import PromptSet
from memfast.statistics import NeuronStatistics


@dataclass(frozen=True)
class Pull:
    """What gates are learnt for: steps of Adam, and the weights of the loss's three parts.

    The gated model must predict as before on reference prompts (weight 1), what the unconditional
    model predicts on memorized ones (`forget`), and keep few gates open (`close`, per mean gate).
    """

    steps: int = 200
    learning_rate: float = 0.05
    forget: float = 1.0
    close: float = 0.05
    batch: int = 8


def learn_gates(
    pipeline: DiffusionPipeline,
    memorized: PromptSet | Sequence[str],
    reference: PromptSet | Sequence[str],
    *,
    pull: Pull | None = None,
    seed: int = 0,
    progress: bool | Advance = False,
    **asked: Unpack[Request],
) -> NeuronStatistics:
    """Statistics [1, neurons] of one learnt gate each, 0 closed to 1 open, quantity "gate".

    A closed gate leaves the neuron's mean activation on reference prompts, which `norms` hold, as
    compensation will. Images as in `collect_sensitivity`. The model stays as it is. Runs of other
    seeds or prompts merge to mean gates. `progress`: True shows a bar; a function is
    told each step.
    Raises InputError for an empty set, or when the loss is not finite.
    """
    pull = pull or Pull()
    memorized, reference = PromptSet.of(memorized), PromptSet.of(reference)
    driver = driver_of(pipeline, **asked)
    schedule = driver.schedule()
    known = collect_sensitivity(pipeline, reference, strata=4, seed=seed, **asked)
    settings = Settings(1, schedule, seed)
    sites = find_sites(driver.model)
    sets = []
    notes: list[str] = []
    for prompts in (memorized, reference):
        if len(prompts) == 0:
            raise InputError(f"{prompts.name}: there are none")
        clean = clean_latents(driver, list(prompts), schedule, seed, notes)
        sets.append((clean, driver.encode_all(prompts.texts)))
    means = {path: norms.mean.mean(0).float() for path, norms in known.norms.items()}
    device = driver.device
    gates = {p: torch.ones(s.neurons, device=device, requires_grad=True) for p, s in sites.items()}
    optimiser = torch.optim.Adam(gates.values(), lr=pull.learning_rate)
    gradients_by = Gradients(driver.model)
    advance = only_stage(progress, "learning gates", pull.steps)
    for step in range(pull.steps):
        source = generator(f"gates/{step}", seed)
        (memory, caption), (usual, description) = (_batch(s, pull.batch, source) for s in sets)
        noise = [torch.randn(x.shape, generator=source).to(x) for x in (memory, usual)]
        times = driver.path.drawn(len(memory) + len(usual), source).to(device)
        noisy = driver.path.add(torch.cat([memory, usual]), torch.cat(noise), times)
        with torch.no_grad():
            empty = driver.no_prompt.expand(len(memory))
            wanted = Conditioning.cat([empty, description])
            target = driver.predict(noisy, times, wanted)
        with torch.enable_grad(), gated(sites, gates, means):
            output = driver.predict(noisy, times, Conditioning.cat([caption, description]))
            error = (wide(output) - wide(target)).square().flatten(1).mean(1)
            open_share = torch.cat(list(gates.values())).mean()
            forget, keep = error[: len(memory)].mean(), error[len(memory) :].mean()
            loss = keep + pull.forget * forget + pull.close * open_share
            gradients = gradients_by.of(loss, list(gates.values()), materialize_grads=True)
        if not loss.isfinite():
            raise InputError(f"gates: the loss is not finite at step {step}")
        for gate, gradient in zip(gates.values(), gradients, strict=True):
            gate.grad = gradient
        optimiser.step()
        with torch.no_grad():
            for gate in gates.values():
                gate.clamp_(0, 1)
        advance(1)
    header = header_of(driver, settings, Kept(reference.name, reference)) | {
        "quantity": "gate",
        "notes": notes,
    }
    return NeuronStatistics(
        {path: _moments(gate) for path, gate in gates.items()},
        header,
        norms={path: _moments(means[path]) for path in gates},
    )


def _batch(
    samples: tuple[Tensor, Conditioning], size: int, source: torch.Generator
) -> tuple[Tensor, Conditioning]:
    """A random part of the samples, without repetition."""
    rows = torch.randperm(len(samples[0]), generator=source)[:size].to(samples[0].device)
    clean, conditioning = samples
    return clean[rows], conditioning[rows]


def _moments(values: Tensor) -> Moments:
    """One row of values as statistics."""
    row = values.detach().to("cpu", torch.float64)[None]
    return Moments(
        count=torch.ones(1, dtype=torch.int64),
        mean=row,
        m2=torch.zeros_like(row),
        max_abs=row.abs().float(),
        nonzero=(row != 0).long(),
    )
