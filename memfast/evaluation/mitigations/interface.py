"""What every mitigation is: something learned from a setting that yields a treated generator."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from memfast.measuring.cases import Cases
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.schedule import Schedule

Generate = Callable[[Driver, Sequence[str], Sequence[str], int, Schedule], Tensor]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a mitigation may learn from; never a test prompt, image or embedding."""

    driver: Driver
    located: Cases
    reference: Cases
    schedule: Schedule
    fraction: float = 0.1
    seed: int = 0


def plain(
    driver: Driver, texts: Sequence[str], ids: Sequence[str], seed: int, schedule: Schedule
) -> Tensor:
    """Images as the bare pipeline makes them."""
    return driver.generate(driver.encode_all(texts), ids, seed, schedule)


@dataclass(frozen=True, slots=True)
class Treated:
    """A treated generator. An attacker with the weights attacks `driver` and skips `generate`.

    removed: the share of the feed-forward neurons or weights (or of the value neurons) taken out.
    mean: the neurons' means {site: [neurons]} of which the removed ones' were folded into the
    biases; empty where nothing was. Controls get the same.
    """

    driver: Driver
    generate: Generate = plain
    removed: float = 0.0
    mean: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mitigation:
    """One method.

    lives_in: the weights, or only the operator's pipeline, which an attacker with the weights
    skips. control: what random pruning to hold it against (neurons or weights), if any.
    needs_clip_attention: applies only where prompts are CLIP's tokens, read by cross-attention.
    """

    name: str
    source: str
    lives_in: Literal["weights", "pipeline"]
    apply: Callable[[Setting], Treated]
    control: Literal["neurons", "weights"] | None = None
    needs_clip_attention: bool = False


def in_batches(texts: Sequence[str], ids: Sequence[str], size: int = 48) -> Any:
    """(texts, ids) of at most `size` prompts at a time."""
    for start in range(0, len(ids), size):
        yield list(texts[start : start + size]), list(ids[start : start + size])


def stacked(images: Sequence[Tensor]) -> Tensor:
    """Batches of images as one."""
    return torch.cat(list(images))
