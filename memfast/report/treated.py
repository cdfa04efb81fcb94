"""The page of a treated model: what was removed or repaired, and what that cost."""

from typing import Any

from memfast.report import charts
from memfast.report.evaluation import missing
from memfast.report.figures import estimate, percent, spread
from memfast.report.report import Report
from memfast.report.stored import Stored

PARTS = ("compact", "repaired", "evaluation")  # folders of make-safe
NEXT = "Memorization is suppressed, not proven gone: `memfast evaluate` and `memfast attack` tell."


def page(stored: Stored) -> Report:
    """The page of `memfast compact`, `prune` or `repair`, beside the model that it wrote, or of
    `make-safe`, above the folders that it made."""
    if stored.kind == "make-safe":
        return _made_safe(stored)
    summary = stored.summary
    page = Report(f"Model, after {stored.kind}", f"made from {summary['model']}", stored.folder)
    {"repair": _repaired}.get(stored.kind, _smaller)(page, stored)
    plain = {k: v for k, v in summary.items() if isinstance(v, int | float | str)}
    page.facts("Summary", [(k.replace("_", " "), v) for k, v in plain.items()])
    if settings := summary.get("settings"):
        page.facts("Settings", [(k.replace("_", " "), _plain(v)) for k, v in settings.items()])
    missing(page, {}, summary.get("notes", ()))
    stored.sources(page)
    return page


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float) else str(value)


def _smaller(page: Report, stored: Stored) -> None:
    """A compact or a masked model: sizes before and after."""
    found = stored.summary
    warning = [found["warning"]] if found.get("warning") else []
    if "parameters_before" not in found:
        stored.verdict(page, "none", f"{found['density']:.1%} masked, the shapes unchanged", NEXT)
        page.figure("removed", found["removed"], f"{found['selects']}, set to zero")
        page.figure("density", found["density"], "of the feed-forwards")
        page.figure("size", "unchanged", "`memfast compact` makes it smaller")
        return
    share = found["parameters_after"] / found["parameters_before"] - 1
    words = f"{-share:.1%} smaller: {found['neurons_removed']:,} neurons are gone"
    stored.verdict(page, "unsure" if warning else "none", words, *warning, NEXT)
    for name, label in (("neurons", "neurons"), ("parameters", "parameters"), ("bytes", "bytes")):
        before, after = found[f"{name}_before"], found[f"{name}_after"]
        change = f"{after / before - 1:+.1%}" if before else ""
        page.figure(label, after, f"{change} from {before:,}")


def _repaired(page: Report, stored: Stored) -> None:
    """A repaired model: damage before and after, and what rounds of attack brought back."""
    found, rounds = stored.summary, stored.summary.get("rounds")
    if rounds:
        _rounds(page, stored, rounds)
        return
    before, after = found["damage_before"], found["damage_after"]
    better = after < before
    stored.verdict(
        page,
        "good" if better else "bad",
        f"Held-out loss {'falls' if better else 'does not fall'}: {before:.3f} to {after:.3f}",
        f"As a multiple of the original's, on {found['held_out_captions']} held-out captions.",
        NEXT,
    )
    page.figure("damage before", before, "held-out loss over the original's")
    page.figure("damage after", after, f"{after / before - 1:+.1%}")
    page.figure("neurons", found["neurons"], f"of {found['neurons_original']:,}")
    history = found["history"]
    if history:
        steps = [each["step"] for each in history]
        errors = {name: [each[name] for each in history] for name in history[0] if name != "step"}
        drawn = charts.curves(steps, errors, "step", "error")
        page.charts("Training", {"Error of each objective": drawn})


def _rounds(page: Report, stored: Stored, rounds: list[dict[str, Any]]) -> None:
    last = rounds[-1]
    stored.verdict(
        page,
        "good" if last["met"] else "bad",
        f"The attack brings {percent(last['attacked'])} of the images back, of its control "
        f"{percent(last['control'])}",
        "No more than the control's interval allows." if last["met"] else "More than the control.",
        NEXT,
    )
    page.figure("memorized, under attack", percent(last["attacked"]), spread(last["attacked"]))
    page.figure("control, under attack", percent(last["control"]), spread(last["control"]))
    page.figure("damage", last["damage"], "held-out loss over the original's")
    kinds = {"memorized": "attacked", "control": "control"}
    rows = [
        (f"before round {n}", {k: estimate(r[f]) for k, f in kinds.items()})
        for n, r in enumerate(rounds, 1)
    ]
    drawn = charts.forest(rows, "share of images brought back")
    page.charts("Rounds", {"Brought back by the attack": drawn})
    columns = ("round", "neurons", "damage", "memorized", "control", "met")
    page.table(
        "Each round",
        columns,
        [
            (n, r["neurons"], r["damage"], percent(r["attacked"]), percent(r["control"]), r["met"])
            for n, r in enumerate(rounds, 1)
        ],
    )


def _made_safe(stored: Stored) -> Report:
    """What came of it, and where each part is told."""
    found, proven = stored.summary, (stored.folder / "evaluation" / "report.html").is_file()
    page = Report("Made safer", f"the result is the folder {found['model']}", stored.folder)
    told = f"{1 - found['size']:.1%} of the parameters are gone"
    told += f", loss × {found['damage']:.3f} on reference captions"
    tone = "bad" if found["failed"] else "good" if proven else "unsure"
    stored.verdict(page, tone, told, *found["failed"], *_caution(stored, proven))
    page.figure("size", f"{found['size']:.1%}", _asked(found["target_size"]))
    page.figure("damage", found["damage"], f"at most {found['max_damage']}")
    page.figure("attacked", "yes" if found["attacked"] else "no", "in the evaluation")
    parts = [name for name in PARTS if (stored.folder / name / "summary.json").is_file()]
    page.facts("Parts", [(name, f"{name}/report.html") for name in parts])
    stored.sources(page)
    return page


def _caution(stored: Stored, proven: bool) -> list[str]:
    """What the result does not show."""
    kept = (stored.folder / "repaired").is_dir() and stored.summary["model"] == "compact"
    worse = ["The repair made it worse, and is not the result."] if kept else []
    if proven:
        return [*worse, "Whether that forgets, and holds under attack, the evaluation tells."]
    return [*worse, "Nothing shows that it forgets: give --memorized, with images."]


def _asked(size: float | None) -> str:
    return "" if size is None else f"at most {size:.1%}"
