"""What a repair is to do: every choice that shapes its result, in one place."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from memfast.attacks.embeddings import STARTS
from memfast.errors import InputError

HIGHEST_RATE = 1000  # far above any that teaches
MAY_CHANGE = ("learning_rate", "save_every", "graphs")
"""What a repair that goes on may be given anew: they say how it gets there, not where."""


@dataclass(frozen=True, slots=True)
class RepairSettings:
    """steps: of Adam, its rate falling from `learning_rate` to 0 by a cosine. batch: rows of each
    objective a step. seed: of every draw; a step's draws depend on it and the step alone.

    recipe: the name of the bundle that these settings were taken from, if any.

    perturb: how far every weight is shrunk, and how much noise relative to it is added, before
    training; the model forgets what is not taught again, and needs thousands of steps. selected:
    where there are memorized captions with images, this share of the weights, those that they use
    most for how much reference captions do, is perturbed by perturb_high instead and all others by
    perturb_low (0: all alike).

    features: the weight of what the original's blocks return, beside its output. ema: the decay of
    an average of the weights over the steps, which is the result (0: the last weights are).
    watch: every so many steps a half of the memorized captions, which then teaches nothing, is
    generated and attacked; the repair stops when a copy or more than of reference images comes
    back, and the last state before that is the result (0: never).

    Weights of the objectives (0 leaves one out; those of located captions need such captions):
    reference: reference captions predict as the original does. surrogate: located captions make
    the pruned model's own image of them. adversarial: embeddings under attack predict as no
    caption at all does; so do scattered ones, which lie far from any caption's.
    The attack drives embeddings on by `stride` steps each time they are used, from each of
    `starts`, and begins anew after `life` steps, of which `run_up` come before it is used;
    `draws` and `attack_rate` as in AttackSettings. `every`: only at every so many steps is the
    adversarial objective drawn, whose attack costs more than all else. `controls`: so many
    reference images are attacked as well, though not from their own captions, which teaches more
    than located ones alone. save_every: steps between checkpoints. graphs: replay the steps of
    small models on CUDA.
    """

    steps: int = 150
    learning_rate: float = 3e-4
    batch: int = 16
    seed: int = 0
    recipe: str = ""
    perturb: float = 0.0
    selected: float = 0.0
    perturb_high: float = 0.95
    perturb_low: float = 0.4
    features: float = 0.0
    ema: float = 0.0
    watch: int = 0
    reference: float = 1.0
    surrogate: float = 0.5
    adversarial: float = 0.5
    scattered: float = 0.25
    stride: int = 3
    run_up: int = 6
    life: int = 50
    draws: int = 2
    attack_rate: float = 0.1
    starts: tuple[str, ...] = tuple(STARTS)
    every: int = 1
    controls: int = 24
    save_every: int = 25
    graphs: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "stride", "life", "draws", "every", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("learning_rate", "attack_rate"):
            if not 0 < getattr(self, name) <= HIGHEST_RATE:
                raise InputError(
                    f"{name} must be above 0 and at most {HIGHEST_RATE}, not {getattr(self, name)}"
                )
        for name in ("run_up", "controls", "watch"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be at least 0, not {getattr(self, name)}")
        for name in self.weights:
            if not 0 <= self.weights[name] < math.inf:
                raise InputError(f"{name}: a weight cannot be {self.weights[name]}")
        if not 0 <= self.features < math.inf:
            raise InputError(f"features: a weight cannot be {self.features}")
        for name in ("perturb", "selected", "perturb_high", "perturb_low", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        for start in self.starts:
            if start not in STARTS:
                raise InputError(f"starts: {start!r} is none of {', '.join(STARTS)}")

    @property
    def weights(self) -> dict[str, float]:
        """{objective: weight}."""
        names = ("reference", "surrogate", "adversarial", "scattered")
        return {name: getattr(self, name) for name in names}

    def bound(self) -> dict[str, Any]:
        """The fields that a repair that goes on must have begun with."""
        return {name: value for name, value in self.as_dict().items() if name not in MAY_CHANGE}

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return {**asdict(self), "starts": list(self.starts)}
