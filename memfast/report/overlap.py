"""The page of the subspace study: do disjoint sets of memorized prompts share their masks?"""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from memfast.report import charts
from memfast.report.report import Report
from memfast.report.stored import Stored

NOTE = (
    "IoU: intersection over union of two masks. Sets are disjoint, of equal size, and never share "
    "near-duplicate captions. 'Against null' contrasts a set with the empty prompt, run once, as "
    "in arXiv 2406.18566; 'reference, against null' and the random masks are the controls."
)


def overlap_table(summary: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows: each arm's IoU over its pairs of masks."""
    columns = ["masks", "pairs", "mean IoU", "least", "most"]
    return columns, [
        [name, len(arm["iou"]), fmean(arm["iou"]), min(arm["iou"]), max(arm["iou"])]
        for name, arm in summary["arms"].items()
    ]


def page(stored: Stored) -> Report:
    """The verdict, the table, and where and when masks overlap."""
    found = stored.summary
    arms, subsets = found["arms"], found["subsets"]
    plain = {k: v for k, v in found.items() if k not in ("iou", "arms", "verdict")}
    how = [(name, value) for name, value in plain.items() if value is not None]
    page = Report("Is the memorized subspace shared?", f"{subsets} sets each", stored.folder)
    words = "More shared than ordinary prompts'" if found["more_shared"] else "Not more shared"
    page.verdict("unsure" if found["more_shared"] else "none", words, found["verdict"])
    page.figure("mean IoU, memorized sets", found["memorized"])
    page.figure("mean IoU, reference sets", found["reference"], "the control")
    page.figure("p", found["p"], "exact permutation, one-sided")
    page.table("Overlap of disjoint sets' masks", *overlap_table(found), note=NOTE)
    names = [f"{kind} {n + 1}" for kind in ("memorized", "reference") for n in range(subsets)]
    steps = range(len(next(iter(arms.values()))["by_step"]))
    by_step = {name: arm["by_step"] for name, arm in arms.items()}
    page.charts(
        "When and between which sets",
        {
            "Overlap by step": charts.curves(
                steps, by_step, "denoising step, 0 = the noisiest", "mean IoU"
            ),
            "IoU of every two sets' masks, against null": charts.heatmap(
                found["iou"], names, names
            ),
        },
    )
    page.charts(
        "IoU by site and step",
        {
            name: charts.heatmap(
                arm["by_site_and_step"], list(arm["by_site"]), [str(s) for s in steps], (0, 1)
            )
            for name, arm in arms.items()
            if name.startswith(("memorized, ", "reference, "))
        },
    )
    page.facts("Settings", how)
    stored.sources(page)
    return page
