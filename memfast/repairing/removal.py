"""How much may go: the largest share of neurons whose removal harms held-out captions little."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from memfast.choosing.locating import locate
from memfast.errors import InputError
from memfast.measuring.cases import Cases
from memfast.measuring.losses import denoising_loss
from memfast.pipelines.drivers.driver import Driver
from memfast.removing.compact import compact
from memfast.selection import Subspace
from memfast.statistics import NeuronStatistics


@dataclass(frozen=True)
class Removal:
    """subspace: what goes. damage: the held-out loss afterwards over the original's. tried: every
    (share, damage) that the search measured."""

    subspace: Subspace
    damage: float
    tried: tuple[tuple[float, float], ...]


def harm_of(original: Driver, held_out: Cases, seed: int = 0) -> Callable[[nn.Module], float]:
    """Measures a model's denoising loss on held-out captions, over the original's, equal draws."""
    base = float(denoising_loss(original, held_out, seed).nanmean())

    def harm(model: nn.Module) -> float:
        treated = original.with_model(model)
        return float(denoising_loss(treated, held_out, seed).nanmean()) / base

    return harm


def remove_to_damage(
    driver: Driver,
    statistics: NeuronStatistics,
    harm: Callable[[nn.Module], float],
    max_damage: float,
    *,
    rule: str = "reference",
    memorized: NeuronStatistics | None = None,
    beta: float | None = None,
    trials: int = 6,
) -> Removal:
    """The largest share of neurons, by `rule`, that keeps `harm` at or below `max_damage`; see
    `largest`."""

    def choose(share: float) -> Subspace:
        return locate(memorized, statistics, driver.model, rule=rule, fraction=share, beta=beta)

    return largest(driver, choose, harm, max_damage, trials)


def largest(
    driver: Driver,
    choose: Callable[[float], Subspace],
    harm: Callable[[nn.Module], float],
    max_damage: float,
    trials: int = 6,
) -> Removal:
    """The largest share of neurons, as `choose` takes them, that keeps `harm` at or below
    `max_damage`.

    Found by bisection with the mean folded into the bias, on a copy; the loss need not grow
    evenly, so the result is the largest share tried that kept the bound.
    Raises InputError for a bound that no removal keeps.
    """
    low, high = 0.0, 1.0
    tried: list[tuple[float, float]] = []
    best: Removal | None = None
    for _ in range(trials):
        share = (low + high) / 2
        subspace = choose(share)
        damage = harm(compact(driver.model, subspace, multiple_of=1))
        tried.append((share, damage))
        if damage <= max_damage:
            low, best = share, Removal(subspace, damage, ())
        else:
            high = share
    if best is None:
        raise InputError(
            f"max_damage {max_damage}: even removing {tried[-1][0]:.1%} of the neurons costs "
            f"{tried[-1][1]:.4f}"
        )
    return replace(best, tried=tuple(tried))
