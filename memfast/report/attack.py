"""The page of an attack: what a searched embedding brings back, always beside its control."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from memfast.report import charts
from memfast.report.evaluation import missing
from memfast.report.figures import below, estimate, headline, known, percent, spread, told
from memfast.report.pictures import Album, Shot, judged
from memfast.report.report import Report
from memfast.report.stored import Stored

if TYPE_CHECKING:
    from memfast.attacks.run import AttackReport

PICTURES = 48  # captions a gallery
READING = (
    "Memorized: the images under test. Control: the same attack on images that the model does "
    "not replicate; what the attack does to them is what it can do without memory. Any: at "
    "least one start brought the image back. Below the attack: other words, and the words "
    "nearest to the embeddings found.",
    "Intervals are 95 %, resampled over groups of near-duplicate captions. More than control "
    "is shown only where the intervals do not overlap for any headline metric.",
)
Key = tuple[str, str, int]  # images, start, steps


def attack_table(summary: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows: every set of images, start and number of steps, with every metric's rate.

    The last column: do more memorized images come back than under the same attack on the control,
    beyond both intervals and by every headline metric?
    """
    found = _rates(summary)
    metrics = list(dict.fromkeys(metric for rates in found.values() for metric in rates))
    rows = []
    for (images, start, steps), rates in found.items():
        control = found.get(("control", start, steps))
        claim = _more(summary, control, rates) if control and images != "control" else ""
        figures = [told(rates[m]) if m in rates else "" for m in metrics]
        rows.append([images, start, str(steps or ""), *figures, claim])
    return ["images", "start", "steps", *metrics, "more than control"], rows


def _rates(summary: Mapping[str, Any]) -> dict[Key, dict[str, Mapping[str, Any]]]:
    found: dict[Key, dict[str, Mapping[str, Any]]] = {}
    for row in summary["rates"]:
        if known(row["rate"]):
            key = (row["images"], row["start"], row["steps"])
            found.setdefault(key, {})[row["metric"]] = row["rate"]
    return found


def _more(summary: Mapping[str, Any], control: Mapping[str, Any], rates: Mapping[str, Any]) -> str:
    """Whether the control lies below by every headline metric; else the weakest answer."""
    answers = [below(control.get(m), rates.get(m)) for m in headline(summary, rates)]
    return next((a for a in answers if a != "shown"), "shown")


def page(stored: Stored) -> Report:
    """The page of `memfast attack`."""
    summary = stored.summary
    found = _rates(summary)
    page = Report("Attack", "can a searched embedding bring training images back?", stored.folder)
    _verdict(page, stored, found)
    page.table("Images brought back", *attack_table(summary))
    page.charts("Brought back, by start", _charts(summary, found))
    stored.albums(page)
    captions = summary["captions"]
    if summary["projected"]:
        page.table(
            "The embeddings' nearest words",
            ("caption", "words"),
            [(captions.get(name, name), words) for name, words in summary["projected"].items()],
        )
    if summary["extraction"]:
        page.table(
            "Extraction",
            ("caption", "images alike", "seeds", "extracted"),
            [
                (captions.get(e["id"], e["id"]), e["clique"], e["seeds"], e["extracted"])
                for e in summary["extraction"]
            ],
        )
    page.text("How to read this", *READING)
    missing(page, summary["missing"], summary["notes"])
    page.facts("Settings", [(k.replace("_", " "), v) for k, v in summary["settings"].items()])
    stored.sources(page)
    return page


def _verdict(page: Report, stored: Stored, found: Mapping[Key, Mapping[str, Any]]) -> None:
    """What the longest attack from any start did to memorized images and to its control."""
    attacks = [key for key in found if ("control", *key[1:]) in found and key[0] != "control"]
    if not attacks:
        stored.verdict(page, "unsure", "Nothing could be judged")
        return
    key = max(attacks, key=lambda key: (key[2], key[1] == "any"))
    rates, control = found[key], found["control", key[1], key[2]]
    metric = headline(stored.summary, rates)[0]
    mine, theirs = rates[metric], control[metric]
    word = _more(stored.summary, control, rates)
    words = {
        "shown": f"The attack brings {percent(mine)} of the memorized images back",
        "not shown": "Not shown: more memorized images come back than others do",
    }
    stored.verdict(
        page,
        "bad" if word == "shown" else "unsure",
        words.get(word, f"{word}: {mine['groups']} images under attack"),
        f"{told(mine)} of the memorized images, {told(theirs)} of the control's, by {metric}, "
        f"after {key[2]} steps from start '{key[1]}'.",
    )
    page.figure("memorized images brought back", percent(mine), spread(mine, "images"))
    page.figure("control", percent(theirs), spread(theirs, "images"))
    page.figure("more than control", word, "by every headline metric")


def _charts(summary: Mapping[str, Any], found: Mapping[Key, Mapping[str, Any]]) -> dict[str, str]:
    starts = dict.fromkeys((start, steps) for _, start, steps in found)
    drawn = {}
    for metric in headline(summary):
        rows = []
        for start, steps in starts:
            kinds = {k: found.get((k, start, steps), {}) for k in ("memorized", "control")}
            shown = {k: estimate(rates[metric]) for k, rates in kinds.items() if metric in rates}
            if shown:
                rows.append((f"{start}, {steps} steps" if steps else start, shown))
        if rows:
            drawn[f"By {metric}"] = charts.forest(rows, "share of images brought back")
    return drawn


def attack_albums(result: "AttackReport") -> Iterator[Album]:
    """The pictures to keep of an attack, each with its scores."""
    import torch

    library = torch.cat([a.cases.training_images() for a in result.attacked.values()])
    for name, found in result.attacked.items():
        cases = found.cases.part(range(min(PICTURES, len(found.cases))))
        cards = judged(result.tools, cases, {"found": found.pictures}, library)
        yield Album(f"Under attack: {name}", cards, "From the embeddings found, one seed.")
    captions = {case.id: case.text for case in result.attacked["memorized"].cases.cases}
    extracted = [e for e in result.extracted if e.extracted][:PICTURES]
    if extracted:
        cards = [(captions.get(e.id, e.id), [Shot("extracted", e.picture)]) for e in extracted]
        yield Album("Extracted", cards, "Of each caption's images that are alike, the middle one.")
