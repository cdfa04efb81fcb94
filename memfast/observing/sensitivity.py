"""collect_sensitivity: how much the denoiser's output depends on each neuron, on given prompts.

A neuron's gate scales it in all tokens of one image. With v drawn from N(0, I), the expected square
of d(v · output)/d gate is the squared norm of the output's change per unit of the gate, to first
order (Hutchinson's estimator): no loss and no target is needed, and values of all sites compare.
What reference prompts are not sensitive to may be removed, whatever else used it.
"""

from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float, Shaped
from memfast_kernels import Moments, merge
from torch import Tensor
from typing_extensions import Unpack

from memfast.blocks.families import Site, find_sites
from memfast.errors import InputError
from memfast.observing.collecting import Kept, Settings, batched, check_kept, header_of
from memfast.observing.perturbation import changes_by_perturbation
from memfast.observing.scaling import gated, open_gates
from memfast.observing.side_by_side import by_site, sample
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.noise import generator
from memfast.pipelines.pictures import clean_latents
from memfast.pipelines.schedule import Request
from memfast.precision import Gradients, wide
from memfast.progress import Advance, only_stage
from memfast.prompts import Prompt, PromptSet
from memfast.selection import iou, top
from memfast.statistics import NeuronStatistics

QUANTITY = "sensitivity"
METHODS = ("gradient", "perturbation")
PROMPTS = 16  # a batch, at most


def collect_sensitivity(
    pipeline: DiffusionPipeline,
    prompts: PromptSet | Sequence[str],
    *,
    strata: int = 8,
    seed: int = 0,
    batch_size: int | None = None,
    by: str = "gradient",
    progress: bool | Advance = False,
    **asked: Unpack[Request],
) -> NeuronStatistics:
    """Statistics [strata, neurons], over prompts, of d(v · output)/d gate; stratum 0 is noisiest.

    The image is the prompt's training image where it names a file, else what the model makes of it
    (with its own steps, guidance and size unless `asked`): no data set is needed. Each prompt gets
    one noise, timestep and v in each of `strata` equal parts of the noise schedule, by its id and
    `seed` alone. `norms` hold what compensation needs: each neuron's mean activation in a prompt.
    `by` "perturbation" needs no gradient: see `memfast.observing.perturbation`.
    `progress`: as `collect`'s.
    Prompts whose values are not finite are left out and listed in `.skipped`.
    An image that cannot be read is noted in the header, and the model's own stands in for it.
    Raises InputError for an empty prompt set, and pipelines that no driver knows.
    """
    if by not in METHODS:
        raise InputError(f"by must be one of {', '.join(METHODS)}, not {by!r}")
    prompts = PromptSet.of(prompts)
    if len(prompts) == 0:
        raise InputError("prompts: there are none")
    driver = driver_of(pipeline, **asked)
    schedule = driver.schedule()
    settings = Settings(1, schedule, seed)
    sites = find_sites(driver.model)
    width = 2 * sum(site.neurons for site in sites.values())
    state = Moments.empty(strata * width, 1)
    kept = Kept(prompts.name)
    notes: list[str] = []
    advance = only_stage(progress, "sensitivity", len(prompts))
    skipped = []

    def of_batch(batch: list[Prompt]) -> tuple[list[Prompt], Tensor]:
        clean = clean_latents(driver, batch, schedule, seed, notes)
        return batch, _of_batch(driver, sites, batch, clean, strata, seed, by)

    fitting = driver.portion(batch_size or PROMPTS, gradients=by == "gradient")
    for whole in batched(prompts, batch_size or fitting.rows):
        for batch, values in fitting.over(len(whole), lambda part, all=whole: of_batch(all[part])):
            for prompt, value in zip(batch, values, strict=True):
                if value.isfinite().all():
                    state = merge(state, sample(value.flatten()[:, None].double()))
                    kept.add([prompt])
                    continue
                stratum = int((~value.isfinite()).nonzero()[0, 0])
                skipped.append({"id": prompt.id, "step": stratum, "site": QUANTITY})
            advance(len(batch))
    check_kept(kept, skipped)
    steps = [state.select(slice(k * width, (k + 1) * width)) for k in range(strata)]
    moments, norms = by_site(steps, {path: site.neurons for path, site in sites.items()})
    header = header_of(driver, settings, kept) | {
        "quantity": QUANTITY,
        "strata": strata,
        "by": by,
        "notes": [*dict.fromkeys(notes)],
    }
    return NeuronStatistics(moments, header, skipped, norms)


def least_sensitive(
    statistics: NeuronStatistics, fraction: float, per: str = "global"
) -> dict[str, Tensor]:
    """Bool masks {site: [neurons]} of the `fraction` to which the output is least sensitive."""
    return top({path: -value for path, value in sensitivity(statistics).items()}, fraction, per)


def sensitivity(statistics: NeuronStatistics) -> dict[str, Float[Tensor, " neurons"]]:
    """Each neuron's mean square over prompts and strata: the output's expected squared change."""
    return {path: statistics[path].rms.square().mean(0) for path in statistics.sites}


def stability(
    first: NeuronStatistics, second: NeuronStatistics, fraction: float
) -> dict[str, float]:
    """How far two disjoint sets of prompts agree: rank correlation, and IoU of what they remove.

    "chance" is the IoU of two random choices of that `fraction`.
    """
    values = [torch.cat(list(sensitivity(each).values())) for each in (first, second)]
    ranks = torch.stack([value.argsort().argsort().double() for value in values])
    masks = [torch.cat(list(least_sensitive(each, fraction).values())) for each in (first, second)]
    return {
        "rank_correlation": float(torch.corrcoef(ranks)[0, 1]),
        "iou": iou(masks[0], masks[1]),
        "chance": fraction / (2 - fraction),
    }


def _of_batch(
    driver: Driver,
    sites: dict[str, Site],
    batch: list[Prompt],
    clean: Tensor,
    strata: int,
    seed: int,
    by: str,
) -> Float[Tensor, "images strata values"]:
    """Each image's derivatives by all gates, then its mean activations, on the CPU."""
    conditioning = driver.encode([prompt.text for prompt in batch])
    sources = [generator(f"{prompt.id}/{QUANTITY}", seed) for prompt in batch]
    values = []
    for stratum in range(strata):
        noise, direction = driver.noise_of(sources), driver.noise_of(sources)
        times = times_of(driver, stratum, strata, sources)
        latents = driver.path.add(clean, noise, times)
        means: dict[str, Tensor] = {}
        with _watched(driver, sites, means, len(batch)):
            if by == "gradient":
                slopes = _by_gradient(driver, sites, latents, times, conditioning, direction)
            else:
                source = generator(f"{batch[0].id}/{stratum}/perturbation", seed)
                slopes = changes_by_perturbation(
                    driver, sites, latents, times, conditioning, source
                )
        of_stratum = torch.cat([*slopes.values(), *(means[path] for path in sites)], 1)
        values.append(of_stratum.float().cpu())
    return torch.stack(values, 1)


def _by_gradient(
    driver: Driver,
    sites: dict[str, Site],
    latents: Tensor,
    times: Tensor,
    conditioning: Conditioning,
    direction: Tensor,
) -> dict[str, Tensor]:
    """The derivative of direction · output by every image's gates, all open: [images, neurons]."""
    gates = open_gates(sites, len(latents), driver.device)
    with torch.enable_grad(), gated(sites, gates, driver=driver):
        output = driver.predict(latents, times, conditioning)
        slopes = Gradients(driver.model).of(
            (wide(output) * direction).sum(), list(gates.values()), materialize_grads=True
        )
    return dict(zip(gates, slopes, strict=True))


def times_of(
    driver: Driver, stratum: int, strata: int, sources: Sequence[torch.Generator]
) -> Shaped[Tensor, " images"]:
    """A time for each source, uniform over that part of the schedule; part 0 is noisiest."""
    share = torch.cat([torch.rand(1, generator=source) for source in sources])
    return driver.path.at_share((strata - 1 - stratum + share) / strata).to(driver.device)


class _watched:
    """Within the context the first pass leaves each site's mean activation of each image in
    `means`: zeros where the site does not run."""

    def __init__(
        self, driver: Driver, sites: dict[str, Site], means: dict[str, Tensor], images: int
    ):
        self.driver, self.sites, self.means, self.images = driver, sites, means, images

    def __enter__(self) -> None:
        self.runs = {path: torch.zeros(self.images, dtype=torch.int64) for path in self.sites}
        self.rows = {path: torch.zeros(self.images, dtype=torch.int64) for path in self.sites}
        self.handles = []
        for path, site in self.sites.items():
            zeros = torch.zeros(self.images, site.neurons, device=self.driver.device)
            self.means[path] = zeros
            self.handles.append(site.contraction.register_forward_pre_hook(self._watch(path, site)))

    def _watch(self, path: str, site: Site):
        def before(module: object, inputs: tuple[Tensor, ...]) -> None:
            driver, images = self.driver, self.images
            if int(driver.of_call(self.runs[path]).min()) == driver.runs(path):
                return  # of a later pass
            neurons = site.neurons_in(inputs[0]).detach().flatten(1, -2).float()
            ones = torch.ones(len(neurons), dtype=torch.int64)
            self.means[path] += driver.of_all(neurons.sum(1), images)
            self.rows[path] += driver.of_all(ones * neurons.shape[1], images)
            self.runs[path] += driver.of_all(ones, images)

        return before

    def __exit__(self, *_: object) -> None:
        for path, handle in zip(self.sites, self.handles, strict=True):
            handle.remove()
            self.means[path] /= self.rows[path].clamp(min=1)[:, None].to(self.means[path])
