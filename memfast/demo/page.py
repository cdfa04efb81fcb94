"""The demo's report: the closing table, pictures, and where the located neurons are."""

from typing import Any

from memfast.demo.experiment import Experiment
from memfast.report import Report

PICTURES = 16


def table(result: Experiment) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Columns and rows: every model on trial, with 95 % intervals."""
    columns = ("model", "copies, located", "copies, held-out", "singles' SSIM to the original")
    rows = [
        (
            arm.name,
            str(arm.rate(result.located, result.memorized.groups)),
            str(arm.rate(result.held_out, result.memorized.groups)),
            str(arm.singles_ssim),
        )
        for arm in result.arms
    ]
    return columns, rows


def summary(result: Experiment) -> dict[str, Any]:
    """Everything the table says, as plain numbers."""
    arms = {
        arm.name: {
            "copies_located": arm.rate(result.located, result.memorized.groups).as_dict(),
            "copies_held_out": arm.rate(result.held_out, result.memorized.groups).as_dict(),
            "singles_ssim": arm.singles_ssim.as_dict(),
        }
        for arm in result.arms
    }
    return {**result.figures, "density": result.subspace.density, "arms": arms}


def report(result: Experiment) -> Report:
    """The page with pictures."""
    page = Report(
        "memfast demo",
        f"{len(result.located)} memorized prompts located, {len(result.held_out)} held out; "
        f"{result.subspace.density:.0%} of the feed-forward neurons removed",
    )
    page.text(
        "What this shows",
        "The embedded model replicates some of its training images. Neurons were located on one "
        "half of the memorized prompts, removed from the model, and tested on the other half, "
        "which locating never saw. The control removes as many neurons at random.",
        "A copy is an image whose L2 ratio to its training image is below 0.5 and whose SSIM is "
        "above 0.6. Intervals are 95 %, over groups of near-duplicate prompts.",
        "Removal suppresses: whether an attack on the text embedding brings an image back is for "
        "`memfast attack` to say.",
    )
    page.table("Copies before and after", *table(result))
    page.table("Size and time", ("figure", "value"), result.figures.items())
    for heading, indices in (("located", result.located), ("held-out", result.held_out)):
        page.pictures(
            f"Memorized prompts, {heading}",
            ("prompt", "training image", "original", "compact", "random control"),
            [
                (
                    result.memorized.texts[i],
                    (
                        result.memorized.cases[i].images[0],
                        *(arm.memorized[0, i] for arm in result.arms),
                    ),
                )
                for i in indices[:PICTURES]
            ],
        )
    page.pictures(
        "Other prompts",
        ("prompt", "original", "compact", "random control"),
        [
            (text, [arm.singles[0, i] for arm in result.arms])
            for i, text in enumerate(result.singles.texts[:PICTURES])
        ],
    )
    steps = range(len(next(iter(result.by_step.values()))))
    page.heatmap(
        "Where the located neurons are",
        list(result.by_step.values()),
        [path.replace(".transformer_blocks", "") for path in result.by_step],
        [str(step) for step in steps],
        note="Share of each site's neurons that ranking at one denoising step alone would choose; "
        "step 0 is the noisiest.",
    )
    return page
