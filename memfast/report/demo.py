"""The page of `memfast demo`: before and after, with pictures, attacks and where neurons went."""

from collections.abc import Mapping
from typing import Any

from memfast.report import charts
from memfast.report.figures import below, estimate, few, percent, spread, told
from memfast.report.report import Report, Tone
from memfast.report.stored import Stored

KINDS = {"located": "copies_located", "held-out": "copies_held_out"}
READING = (
    "The embedded model replicates some of its training images. 'compact' lacks the neurons "
    "that other prompts need least: no memorized prompt was used to find them, and as many "
    "went as the damage to further prompts allowed. 'contrast' lacks as many that memorized "
    "prompts use more than others do, located on one half of the memorized prompts; the random "
    "control lacks as many at random; 'random, equal damage' lacks as many at random as do the "
    "damage of 'compact'.",
    "A copy is an image whose L2 ratio to its training image is below 0.5 and whose SSIM is "
    "above 0.6. Intervals are 95 %, over groups of near-duplicate prompts.",
    "Removal suppresses: an attacker with the weights who searches a text embedding for a "
    "known image may bring it back, as the table of attacks shows. `--erase-steps` makes a "
    "model that resists, and says at what cost.",
)
Table = tuple[tuple[str, ...], list[tuple[Any, ...]]]


def arms_table(summary: Mapping[str, Any]) -> Table:
    """Columns and rows: every model on trial, with 95 % intervals."""
    columns = ("model", "copies, located", "copies, held-out", "singles' SSIM to the original")
    names = (*KINDS.values(), "singles_ssim")
    return columns, [
        (arm, *(told(found[name]) for name in names)) for arm, found in summary["arms"].items()
    ]


def attack_table(summary: Mapping[str, Any]) -> Table:
    """Columns and rows: what an attack brings back, with 95 % intervals."""
    columns = ("model", "memorized images, held-out", "other images (control)")
    return columns, [
        (name, told(found["memorized"]), told(found["control"]))
        for name, found in summary["attacks"].items()
    ]


def page(stored: Stored) -> Report:
    """The page with pictures."""
    summary = stored.summary
    arms = summary["arms"]
    page = Report(
        "memfast demo",
        f"{summary['density']:.0%} of the feed-forward neurons removed, for "
        f"{summary['damage'] - 1:+.1%} of denoising loss on other prompts",
        stored.folder,
    )
    _verdict(page, stored)
    page.table("Copies before and after", *arms_table(summary))
    drawn = {
        "Copies, with 95 % intervals": charts.forest(
            [(n, {k: estimate(a[f]) for k, f in KINDS.items()}) for n, a in arms.items()],
            "share of images that are copies",
        ),
        "Copies against quality: upper left is best": charts.scatter(
            [
                (n, estimate(a["copies_held_out"]), estimate(a["singles_ssim"]))
                for n, a in arms.items()
            ],
            "copies, held-out prompts",
            "SSIM to the original, other prompts",
        ),
    }
    if summary["attacks"]:
        drawn["Brought back by an attack"] = charts.forest(
            [
                (n, {k: estimate(v) for k, v in kinds.items()})
                for n, kinds in summary["attacks"].items()
            ],
            "share of images brought back",
        )
    page.charts("Rates and quality", drawn)
    if summary["attacks"]:
        page.table("Brought back by an attack", *attack_table(summary))
    stored.albums(page)
    sites = summary["by_step"]
    steps = [str(step) for step in range(len(next(iter(sites.values()))))]
    names = [path.replace(".transformer_blocks", "") for path in sites]
    page.charts(
        "Where the removed neurons are",
        {"Share of each site's neurons": charts.heatmap(list(sites.values()), names, steps)},
        note="The share that ranking at one eighth of the noise schedule alone would choose; 0 is "
        "the noisiest.",
    )
    erased = summary.get("damage_erased")
    page.text(
        "How to read this",
        *READING,
        *(
            [
                "'erased' is 'compact' with every weight shrunk and perturbed, and then taught "
                "again what the original predicts for prompts that are not memorized. It costs "
                f"fidelity: its loss on further prompts is {erased - 1:+.1%} above the original's. "
                "Longer teaching buys some of that back, and some of the memorized images with it "
                "under attack. It is the model that was saved."
            ]
            if erased
            else []
        ),
    )
    plain = {k: v for k, v in summary.items() if isinstance(v, int | float)}
    page.facts("Size and time", [(k.replace("_", " "), v) for k, v in plain.items()])
    stored.sources(page)
    return page


def _verdict(page: Report, stored: Stored) -> None:
    """Are there fewer copies than the original's and than a control's, and does that hold?"""
    summary, arms = stored.summary, stored.summary["arms"]
    name = "erased" if "erased" in arms else "compact"
    control = next((arm for arm in arms if "equal damage" in arm), "random control")
    original, treated, random = (arms[a]["copies_held_out"] for a in ("original", name, control))
    fewer, than_random = below(treated, original), below(treated, random)
    lines = [
        f"On prompts that nothing was located with; fewer than the original's: {fewer}.",
        f"The {control} leaves {percent(random)}; fewer than that: {than_random}. Images of other "
        f"prompts keep an SSIM of {told(arms[name]['singles_ssim'])} to the original's, and of "
        f"{told(arms[control]['singles_ssim'])} with the {control}.",
    ]
    holds = than_random == "shown"
    if attacked := summary["attacks"].get(name):
        more = below(attacked["control"], attacked["memorized"])
        holds &= more != "shown" and attacked["memorized"]["value"] <= attacked["control"]["high"]
        lines.append(
            f"Under attack {percent(attacked['memorized'])} of the images come back, of others "
            f"{percent(attacked['control'])}; more than of others: {more}."
        )
    tone: Tone = "good" if holds else "unsure"
    stored.verdict(
        page,
        tone if fewer == "shown" else "unsure" if few(treated) else "bad",
        f"Copies fall from {percent(original)} to {percent(treated)}"
        if fewer == "shown"
        else f"Fewer copies: {fewer}",
        *lines,
    )
    page.figure("copies by the original", percent(original), spread(original))
    page.figure(f"copies by '{name}'", percent(treated), spread(treated))
    after, before = summary["parameters_after"], summary["parameters_before"]
    page.figure("parameters", f"{after / before - 1:+.1%}", f"{before:,} to {after:,}")
