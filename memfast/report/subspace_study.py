"""The page of the subspace study: do disjoint sets of memorized prompts share their masks?"""

from typing import Any

from memfast.choosing.subspace_study import CONTRASTED, MEMORIZED, REFERENCE, OverlapStudy
from memfast.report.report import Report

NOTE = (
    "IoU: intersection over union of two masks. Sets are disjoint, of equal size, and never share "
    "near-duplicate captions. 'Against null' contrasts a set with the empty prompt, run once, as "
    "in arXiv 2406.18566; 'reference, against null' and the random masks are the controls."
)


def overlap_table(study: OverlapStudy) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows: each arm's IoU over its pairs of masks."""
    columns = ["masks", "pairs", "mean IoU", "least", "most"]
    rows = []
    for name, arm in study.arms.items():
        values = arm.iou
        extremes = (float(values.min()), float(values.max()))
        rows.append([name, len(values), float(values.mean()), *extremes])
    return columns, rows


def overlap_summary(study: OverlapStudy, how: dict[str, Any]) -> dict[str, Any]:
    """Every figure of the page, for summary.json."""
    verdict = study.verdict
    arms = {
        name: {
            "iou": arm.iou.tolist(),
            "by_step": arm.by_step.tolist(),
            "by_site": dict(zip(arm.sites, arm.final_by_site.tolist(), strict=True)),
        }
        for name, arm in study.arms.items()
    }
    figures = {"memorized": verdict.first, "reference": verdict.second, "p": verdict.p}
    more = {"more_shared": verdict.more_shared, "verdict": study.sentence}
    return {"subsets": study.subsets, **how, **figures, **more, "arms": arms}


def overlap_page(study: OverlapStudy, how: dict[str, Any]) -> Report:
    """The verdict, the table, and where and when masks overlap."""
    settings = ", ".join(f"{key} {value}" for key, value in how.items() if value is not None)
    page = Report("Is the memorized subspace shared?", f"{study.subsets} sets each; {settings}")
    page.text("Verdict", study.sentence)
    page.table("Overlap of disjoint sets' masks", *overlap_table(study), note=NOTE)
    some = study.arms[MEMORIZED]
    steps = [str(step) for step in range(len(some.by_step))]
    page.curves(
        "Overlap by step",
        range(len(steps)),
        {name: arm.by_step.tolist() for name, arm in study.arms.items()},
        "denoising step, 0 = the noisiest",
        "mean IoU",
    )
    names = [f"{kind} {n + 1}" for kind in ("memorized", "reference") for n in range(study.subsets)]
    page.heatmap("IoU of every two sets' masks, against null", study.iou.tolist(), names, names)
    for name in (MEMORIZED, REFERENCE, CONTRASTED):
        grid = study.arms[name].by_site.tolist()
        page.heatmap(f"IoU by site and step: {name}", grid, some.sites, steps, limits=(0.0, 1.0))
    return page
