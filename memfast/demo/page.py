"""What a demo leaves for its report: every figure, and the pictures."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from memfast.demo.experiment import Experiment
from memfast.measuring.cases import Cases
from memfast.measuring.similarity import toolbox
from memfast.repairing.proving import METRICS
from memfast.report.pictures import Album, Shot, judged

PICTURES = 48  # captions a gallery


def summary(result: Experiment) -> dict[str, Any]:
    """Everything that the report shows, as plain numbers."""
    arms = {
        arm.name: {
            "copies_located": arm.rate(result.located, result.memorized.groups).as_dict(),
            "copies_held_out": arm.rate(result.held_out, result.memorized.groups).as_dict(),
            "singles_ssim": arm.singles_ssim.as_dict(),
        }
        for arm in result.arms
    }
    attacks = {
        name: {"memorized": memorized.as_dict(), "control": control.as_dict()}
        for name, (memorized, control) in result.attacks.items()
    }
    figures = {"density": result.subspace.density, "damage": result.damage}
    more = {"arms": arms, "attacks": attacks, "by_step": dict(result.by_step)}
    return {**result.figures, **figures, **more}


def albums(result: Experiment) -> Iterator[Album]:
    """Memorized prompts beside their training images, and other prompts, of every model."""
    library = result.memorized.training_images()
    for heading, indices in (("held-out", result.held_out), ("located", result.located)):
        chosen = indices[:PICTURES]
        made = {arm.name: arm.memorized[0, chosen] for arm in result.arms}
        cards = _judged(result.memorized.part(chosen), made, library)
        yield Album(f"Memorized prompts, {heading}", cards, "One seed each.")
    cards = [
        (text, [Shot(arm.name, arm.singles[0, place]) for arm in result.arms])
        for place, text in enumerate(result.singles.texts[:PICTURES])
    ]
    yield Album("Other prompts", cards, "One seed each.")


def _judged(
    cases: Cases, pictures: dict[str, Tensor], library: Tensor
) -> list[tuple[str, list[Shot]]]:
    return judged(toolbox(METRICS), cases, pictures, library)
