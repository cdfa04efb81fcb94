"""What a smaller model was asked to be, could be, and is; and what that costs."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from memfast.progress import Stage

if TYPE_CHECKING:
    from torch import nn

    from memfast.blocks.sizes import Size
    from memfast.prompts import PromptSet
    from memfast.statistics import NeuronStatistics

JUDGES = 24  # reference prompts, at most
SLACK = 0.02  # of the feed-forwards, that rounding widths may give back


def reached(before: "Size", after: "Size", shrink: float | None, of: str) -> dict[str, Any]:
    """Shares that were asked for, are possible, and were reached."""
    gone = before.parameters - after.parameters
    found: dict[str, Any] = {"asked": f"{shrink:.1%} of the feed-forwards' {of}"} if shrink else {}
    return found | {
        "possible": f"{before.share:.1%} of the model are feed-forwards",
        "removed_of_feed_forwards": gone / before.feed_forward,
        "removed_of_model": gone / before.parameters,
    }


def missed_share(figures: Mapping[str, Any], shrink: float | None, of: str) -> list[str]:
    """Why less was removed than was asked for, if so."""
    found = figures["removed_of_feed_forwards"]
    if shrink is None or of == "flops" or found >= shrink - SLACK:
        return []
    return [f"--shrink {shrink}: only {found:.3f} of the feed-forwards went (widths are rounded)"]


def missed_damage(damage: float | None, bound: float | None) -> list[str]:
    """Why the damage is more than was allowed, if so."""
    if bound is None:
        return []
    if damage is None:
        return [f"--max-damage {bound}: not measured; give --reference as a prompt list"]
    return [f"--max-damage {bound}: the loss is {damage:.4f} of the original's"] * (damage > bound)


def harm_before(
    pipeline: Any,
    known: "PromptSet | NeuronStatistics",
    request: Mapping[str, Any],
    seed: int,
    stage: Stage,
) -> "Callable[[nn.Module], float] | None":
    """Measures the loss on reference prompts over that of the model as it is now; None without."""
    from memfast.measuring.cases import load_cases
    from memfast.pipelines.drivers.table import driver_of
    from memfast.prompts import PromptSet
    from memfast.repairing.removal import harm_of
    from memfast.repairing.samples import with_images

    if not isinstance(known, PromptSet) or not len(known):
        return None
    driver = driver_of(pipeline, **request)
    judges = PromptSet.of(list(known)[:JUDGES])
    advance = stage("images to judge by", 1)
    cases = with_images(driver, load_cases(judges, driver.size), driver.schedule(), seed)
    advance(1)
    return harm_of(driver, cases, seed)
