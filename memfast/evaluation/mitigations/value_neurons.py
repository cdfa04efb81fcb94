"""NeMo, Hintersdorf et al. 2024 (arXiv 2406.02366): memorizing value neurons are switched off.

A neuron is one output of a cross-attention value layer, in the down blocks and the middle block.
For every located caption: neurons whose mean |activation| is an outlier against the reference
captions (|z| > theta, theta from 5 down to 1 by 0.25, and the k strongest, k rising by 1) until
switching them off changes the first noise prediction, by structural similarity to the untouched
one; then every layer and every neuron that can be spared is switched on again. Removed: the union
over captions, as zero rows of the value weights, so that it lives in the weights. The similarity's
threshold is the paper's mean plus one deviation between seeds over reference captions.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import combinations
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memfast.evaluation.mitigations.attention import cross_attentions
from memfast.evaluation.mitigations.interface import Setting, Treated
from memfast.measuring.distances import WINDOW, ms_ssim
from memfast.pipelines.drivers.driver import Driver

CROSS = "encoder_hidden_states"
SEEDS = 4  # initial noises a caption; the paper has 10
THETA, LAST_THETA, THETA_STEP = 5.0, 1.0, 0.25

Blocked = dict[str, set[int]]  # module path of a value layer -> neurons


def value_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The value layers that the method looks at, by module path."""
    return {
        f"{path}.to_v": module.to_v
        for path, module in cross_attentions(model).items()
        if path.startswith(("down_blocks", "mid_block"))
    }


@contextmanager
def blocking(layers: Mapping[str, nn.Linear], blocked: Mapping[str, set[int]]) -> Iterator[None]:
    """Within the context the blocked neurons give zero."""
    handles = []
    try:
        for path, neurons in blocked.items():
            if neurons:
                keep = torch.ones(layers[path].out_features)
                keep[list(neurons)] = 0
                hook = _multiply(keep.to(layers[path].weight))
                handles.append(layers[path].register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _multiply(keep: Tensor) -> Any:
    return lambda module, inputs, output: output * keep


@dataclass(frozen=True, slots=True)
class Search:
    """Everything the selection for one caption reads."""

    driver: Driver
    layers: Mapping[str, nn.Linear]
    mean: Mapping[str, Tensor]
    deviation: Mapping[str, Tensor]
    time: int | float
    seeds: tuple[int, ...]

    @torch.no_grad()
    def activations(self, embeddings: Tensor) -> dict[str, Tensor]:
        """{layer: mean |activation| over tokens [captions, neurons]}; no denoising is needed,
        since a value layer reads the caption alone."""
        return {path: layer(embeddings).abs().mean(1) for path, layer in self.layers.items()}

    @torch.no_grad()
    def change(self, text: str, name: str, blocked: Blocked) -> Tensor:
        """The first noise prediction minus the noise, each channel scaled to [0, 1]: [seeds, ...].

        Both are epsilon, whatever the model predicts.
        """
        noise = torch.cat([self.driver.initial_noise([name], seed) for seed in self.seeds])
        told = self.driver.encode([text]).expand(len(noise))
        with blocking(self.layers, blocked):
            output = self.driver.predict(noise, self.time, told)
        change = self.driver.path.noise(output, noise, self.time) - noise
        low, high = change.amin((2, 3), keepdim=True), change.amax((2, 3), keepdim=True)
        scaled = (change - low) / (high - low)
        small = WINDOW / min(scaled.shape[-2:])  # latents too small for a window are enlarged
        return F.interpolate(scaled, scale_factor=ceil(small)) if small > 1 else scaled


def embeddings_of(driver: Driver, texts: Sequence[str]) -> Tensor:
    """What cross-attention reads of the captions: [captions, tokens, features]."""
    return driver.encode(texts).leaves[CROSS]


def between_seeds(change: Tensor) -> Tensor:
    """Structural similarity of every pair of seeds: [pairs]."""
    first, second = zip(*combinations(range(len(change)), 2), strict=True)
    return ms_ssim(change[list(first)], change[list(second)])


def select(search: Search, text: str, name: str, threshold: float) -> Blocked:
    """The neurons of one caption; none where its seeds do not agree (it is not memorized)."""
    untouched = search.change(text, name, {})
    if between_seeds(untouched).max() <= threshold:
        return {}
    activations = search.activations(embeddings_of(search.driver, [text]))

    def similarity(blocked: Blocked) -> float:
        return float(ms_ssim(untouched, search.change(text, name, blocked)).max())

    theta, strongest = THETA, 0
    blocked = _outliers(search, activations, theta, strongest)
    while (reached := similarity(blocked)) > threshold and theta > LAST_THETA:
        theta, strongest = theta - THETA_STEP, strongest + 1
        blocked = _outliers(search, activations, theta, strongest)
    return _refined(blocked, similarity, max(threshold, reached))


def _outliers(
    search: Search, activations: Mapping[str, Tensor], theta: float, strongest: int
) -> Blocked:
    blocked = {}
    for path, values in activations.items():
        score = (values[0] - search.mean[path]).abs() / search.deviation[path]
        top = values[0].topk(min(strongest, len(score))).indices.tolist()
        blocked[path] = {*(score > theta).nonzero().flatten().tolist(), *top}
    return blocked


def _refined(blocked: Blocked, similarity: Any, threshold: float) -> Blocked:
    """Without the layers, then the neurons, that can be switched on again.

    Where the paper tries one neuron after another, groups are tried first and halved when they
    cannot be spared: the same test, far fewer of them.
    """
    for path in reversed(list(blocked)):
        pending = [sorted(blocked[path])]
        while pending:
            group = pending.pop()
            without = {**blocked, path: blocked[path] - set(group)}
            if group and similarity(without) <= threshold:
                blocked = without
            elif len(group) > 1:
                pending += [group[: len(group) // 2], group[len(group) // 2 :]]
    return blocked


def prepare(setting: Setting, texts: Sequence[str]) -> Search:
    """The reference captions' statistics of every value neuron."""
    driver = setting.driver
    layers = value_layers(driver.model)
    embeddings = embeddings_of(driver, list(texts))
    with torch.no_grad():
        values = {path: layer(embeddings).abs().mean(1) for path, layer in layers.items()}
    return Search(
        driver,
        layers,
        {path: value.mean(0) for path, value in values.items()},
        {path: value.std(0).clamp_min(1e-12) for path, value in values.items()},
        driver.times(setting.schedule)[0],
        tuple(range(setting.seed, setting.seed + SEEDS)),
    )


def value_neurons(setting: Setting) -> Treated:
    """A model without the value neurons that the located captions need."""
    reference = setting.reference
    search = prepare(setting, reference.texts)
    agreement = torch.cat(
        [
            between_seeds(search.change(text, name, {}))
            for text, name in zip(reference.texts, reference.ids, strict=True)
        ]
    )
    threshold = float(agreement.mean() + agreement.std())
    union: Blocked = {path: set() for path in search.layers}
    for text, name in zip(setting.located.texts, setting.located.ids, strict=True):
        for path, neurons in select(search, text, name, threshold).items():
            union[path] |= neurons
    model = deepcopy(setting.driver.model)
    with torch.no_grad():
        for path, layer in value_layers(model).items():
            layer.weight[sorted(union[path])] = 0
    removed = sum(map(len, union.values()))
    total = sum(layer.out_features for layer in search.layers.values())
    return Treated(setting.driver.with_model(model), removed=removed / total)
