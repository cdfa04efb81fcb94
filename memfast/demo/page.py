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
    attacks = {
        name: {"memorized": memorized.as_dict(), "control": control.as_dict()}
        for name, (memorized, control) in result.attacks.items()
    }
    sizes = {"density": result.subspace.density, "damage": result.damage}
    return {**result.figures, **sizes, "arms": arms, "attacks": attacks}


def attack_table(result: Experiment) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows: what an attack brings back, with 95 % intervals."""
    columns = ("model", "memorized images, held-out", "other images (control)")
    return columns, [(name, str(a), str(b)) for name, (a, b) in result.attacks.items()]


def report(result: Experiment) -> Report:
    """The page with pictures."""
    page = Report(
        "memfast demo",
        f"{result.subspace.density:.0%} of the feed-forward neurons removed, for "
        f"{result.damage - 1:+.1%} of denoising loss on other prompts",
    )
    erased = []
    if "damage_erased" in result.figures:
        erased = [
            "'erased' is 'compact' with every weight shrunk and perturbed, and then taught again "
            "what the original predicts for prompts that are not memorized. It costs fidelity: "
            f"its loss on further prompts is {result.figures['damage_erased'] - 1:+.1%} above the "
            "original's. Longer teaching buys some of that back, and some of the memorized images "
            "with it under attack. It is the model that was saved."
        ]
    page.text(
        "What this shows",
        "The embedded model replicates some of its training images. 'compact' lacks the neurons "
        "that other prompts need least: no memorized prompt was used to find them, and as many "
        "went as the damage to further prompts allowed. 'contrast' lacks as many that memorized "
        "prompts use more than others do, located on one half of the memorized prompts; the random "
        "control lacks as many at random.",
        *erased,
        "A copy is an image whose L2 ratio to its training image is below 0.5 and whose SSIM is "
        "above 0.6. Intervals are 95 %, over groups of near-duplicate prompts.",
        "Removal suppresses: an attacker with the weights who searches a text embedding for a "
        "known image may bring it back, as the table of attacks shows. `--erase-steps` makes a "
        "model that resists, and says at what cost.",
    )
    page.table("Copies before and after", *table(result))
    if result.attacks:
        page.table("Brought back by an attack", *attack_table(result))
    page.table("Size and time", ("figure", "value"), result.figures.items())
    for heading, indices in (("located", result.located), ("held-out", result.held_out)):
        page.pictures(
            f"Memorized prompts, {heading}",
            ("prompt", "training image", *(arm.name for arm in result.arms)),
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
        ("prompt", *(arm.name for arm in result.arms)),
        [
            (text, [arm.singles[0, i] for arm in result.arms])
            for i, text in enumerate(result.singles.texts[:PICTURES])
        ],
    )
    steps = range(len(next(iter(result.by_step.values()))))
    page.heatmap(
        "Where the removed neurons are",
        list(result.by_step.values()),
        [path.replace(".transformer_blocks", "") for path in result.by_step],
        [str(step) for step in steps],
        note="Share of each site's neurons that ranking at one eighth of the noise schedule alone "
        "would choose; 0 is the noisiest.",
    )
    return page
