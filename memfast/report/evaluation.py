"""The page of an evaluation: every method beside its controls, copies against quality."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from memfast.report import charts
from memfast.report.figures import estimate, few, headline, known, percent, spread, told
from memfast.report.pictures import Album, judged
from memfast.report.report import Report
from memfast.report.stored import Stored

if TYPE_CHECKING:
    from memfast.evaluation.run import Evaluation

PICTURES = 48  # captions a gallery
QUALITIES = {"ssim": "SSIM to the original", "loss_ratio": "loss over its", "clip": "CLIP score"}
READING = (
    "Copies: the share of memorized captions of which an image of any seed passes the metric's "
    "threshold against any of the caption's training images. Methods learn from one half of "
    "the captions and are tested on the other, unless the model was made beforehand.",
    "Under attack: the share of training images that a searched text embedding brings back. "
    "Its control is the same attack on images that the model does not replicate: a rate that "
    "is not above the control's says nothing about memorization.",
    "A method that lives in the pipeline is skipped by whoever has the weights, so the "
    "original's rate under attack is its own.",
    "Intervals are 95 %, resampled over groups of near-duplicate captions. A claim is shown only "
    "where the interval lies below its control's for every headline metric.",
)

Table = tuple[str, list[str], list[list[Any]]]  # title, columns, rows


def methods_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Every method beside its controls: copies, copies under attack, quality, and cost."""
    methods = summary["methods"]
    first, names = methods[0], headline(summary, methods[0]["memorization_rate"])
    rates = [row["memorization_rate"] for row in methods]
    tables: list[Table] = [
        (
            "Copies",
            ["method", "lives in", *(f"by {m}" for m in names)],
            [
                [row["method"], row["lives_in"], *(told(rate[m]["all"]) for m in names)]
                for row, rate in zip(methods, rates, strict=True)
            ],
        )
    ]
    if first["attacked"]:
        tables.append(
            (
                "Copies under attack, and the same attack on images that are not memorized",
                ["method", *(f"by {m}" for m in names), *(f"control, {m}" for m in names)],
                [
                    [
                        row["method"],
                        *(told(row["attacked"][m]) for m in names),
                        *(told(row["attack_control"][m]) for m in names),
                    ]
                    for row in methods
                    if row["attacked"]
                ],
            )
        )
    claims = list(dict.fromkeys(claim for row in methods for claim in row["verdicts"]))
    if claims:
        told_of = [
            [row["method"], *(row["verdicts"].get(c, "") for c in claims)] for row in methods
        ]
        tables.append(
            (
                "Claims: are there fewer copies than",
                ["method", *(claim.removeprefix("fewer copies than ") for claim in claims)],
                [cells for cells in told_of if any(cells[1:])],
            )
        )
    tables.append(_quality(methods, "reference", "reference"))
    if first["heldout"]:
        tables.append(_quality(methods, "heldout", "held-out"))
    return [*tables, _cost(summary)]


def _quality(methods: Sequence[Mapping[str, Any]], kind: str, words: str) -> Table:
    """Means over captions that are not memorized, where anything is known."""
    columns = {n: title for n, title in QUALITIES.items() if known(methods[0][kind].get(n))}
    rows = [[row["method"], *(told(row[kind][n]) for n in columns)] for row in methods]
    return f"Quality on {words} captions", ["method", *columns.values()], rows


def _cost(summary: Mapping[str, Any]) -> Table:
    """Size, seconds, and the distances of whole sets of images."""
    methods = summary["methods"]
    distances = [d for d in ("fid", "kid") if d in methods[0]]
    whole = methods[0]["parameters"]
    columns = ["method", "removed", "parameters", "smaller", "s an image"]
    rows = [
        [
            row["method"],
            row["removed"],
            round(row["parameters"]),
            "yes" if row["parameters"] < whole else "no",
            row["seconds"],
            *(row[d] for d in distances),
        ]
        for row in methods
    ]
    named = [f"{d.upper()} ({summary['features']})" for d in distances]
    return "Size, cost, and distances of reference images", [*columns, *named], rows


def why_missing(missing: Mapping[str, str]) -> list[tuple[str, str]]:
    """(names, reason) of what did not run, equal reasons together."""
    reasons: dict[str, list[str]] = {}
    for name, reason in missing.items():
        reasons.setdefault(reason, []).append(name)
    return [(", ".join(names), reason) for reason, names in reasons.items()]


def page(stored: Stored) -> Report:
    """The page of `memfast evaluate`."""
    summary = stored.summary
    methods, settings = summary["methods"], summary["settings"]
    page = Report(
        "Evaluation",
        f"{settings['memorized']} memorized and {settings['reference']} reference captions; "
        f"repetitions: {settings['repeats']}",
        stored.folder,
    )
    _verdict(page, stored, methods)
    tables = methods_tables(summary)
    page.table(*tables[0])
    page.charts(
        "Rates and quality", _charts(methods, headline(summary, methods[0]["memorization_rate"]))
    )
    for heading, columns, rows in tables[1:]:
        page.table(heading, columns, rows)
    stored.albums(page)
    page.table(
        "Memorization rate by metric and kind of caption",
        ("method", "metric", "captions", "rate", "prompts"),
        [
            (row["method"], metric, part, told(rate), rate["prompts"])
            for row in methods
            for metric, parts in row["memorization_rate"].items()
            for part, rate in parts.items()
            if known(rate)
        ],
    )
    page.text("How to read this", *READING)
    missing(page, summary["missing"], summary["notes"])
    page.facts("Settings", [(k.replace("_", " "), v) for k, v in settings.items()])
    stored.sources(page)
    return page


def missing(page: Report, names: Mapping[str, str], notes: Sequence[str]) -> None:
    """What did not run, and why; what could not be used."""
    if names:
        page.table("What did not run", ("what", "why"), why_missing(names))
    if notes:
        page.table("Notes", ("note",), [(note,) for note in notes[:200]])


def _verdict(page: Report, stored: Stored, methods: Sequence[Mapping[str, Any]]) -> None:
    """Does a treatment make fewer copies than the original and than its controls?"""
    original, metric = methods[0], headline(stored.summary, methods[0]["memorization_rate"])[0]
    treated = [row for row in methods[1:] if row["source"] != "control"]
    rates = {row["method"]: row["memorization_rate"][metric]["all"] for row in methods}
    page.figure(
        "captions that the original copies", percent(rates["original"]), spread(rates["original"])
    )
    if not treated:
        stored.verdict(
            page,
            "none",
            f"{percent(rates['original'])} of the captions are copied",
            f"By {metric}.",
        )
        page.figure("captions tested", rates["original"]["prompts"], f"by {metric}")
        page.figure("parameters", round(original["parameters"]))
        return
    best = min(treated, key=lambda row: (rates[row["method"]]["value"] or 0, row["method"]))
    name, quality = best["method"], best["reference"]["ssim"]
    page.figure(f"captions that {name} copies", percent(rates[name]), spread(rates[name]))
    page.figure(f"quality of {name}", told(quality), "SSIM to the original on reference captions")
    shown = [r["method"] for r in treated if set(r["verdicts"].values()) == {"shown"}]
    lines = [_claims(row) for row in treated[:6]]
    if shown:
        words = f"{', '.join(shown)}: fewer copies than the original and every control"
        stored.verdict(page, "good", words, *lines)
    elif any(few(rates[row["method"]]) for row in treated):
        stored.verdict(page, "unsure", "Too few captions to tell", *lines)
    else:
        stored.verdict(page, "bad", "No claim is shown", *lines)


def _claims(row: Mapping[str, Any]) -> str:
    """A method's claims in one line, those with one answer together."""
    rivals: dict[str, list[str]] = {}
    for claim, word in row["verdicts"].items():
        rivals.setdefault(word, []).append(claim.removeprefix("fewer copies than "))
    told_of = [f"{word}: fewer copies than {'; '.join(names)}" for word, names in rivals.items()]
    return f"{row['method']} — {'. '.join(told_of)}."


def _charts(methods: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, str]:
    rates = [
        (
            row["method"],
            {
                m: estimate(row["memorization_rate"][m]["all"])
                for m in names
                if known(row["memorization_rate"][m]["all"])
            },
        )
        for row in methods
    ]
    found = {"Copies, with 95 % intervals": charts.forest(rates, "share of captions copied")}
    attacked = [row for row in methods if row["attacked"]]
    if attacked:
        metric = names[0]
        kinds = {"memorized": "attacked", "control": "attack_control"}
        found["Brought back by an attack"] = charts.forest(
            [
                (
                    row["method"],
                    {
                        k: estimate(row[f][metric])
                        for k, f in kinds.items()
                        if known(row[f][metric])
                    },
                )
                for row in attacked
            ],
            f"share of images brought back, by {metric}",
        )
    points = [
        (
            row["method"],
            estimate(row["memorization_rate"][names[0]]["all"]),
            estimate(row["reference"]["ssim"]),
        )
        for row in methods
        if known(row["reference"].get("ssim")) and known(row["memorization_rate"][names[0]]["all"])
    ]
    found["Copies against quality: upper left is best"] = charts.scatter(
        points, f"captions copied, by {names[0]}", "SSIM to the original, reference captions"
    )
    return found


def evaluation_albums(result: "Evaluation") -> Iterator[Album]:
    """The pictures to keep of an evaluation: the first repetition's, each with its scores."""
    import torch

    bench = result.bench
    outcomes = [o for o in result.outcomes.values() if o.source != "control"]
    library = torch.cat([bench.memorized.training_images(), bench.reference.training_images()])
    tested = bench.memorized.part(outcomes[0].tested[:PICTURES])
    kept = bench.reference.part(outcomes[0].reference_tested[:PICTURES])
    shown = {o.name: o.pictures for o in outcomes if o.pictures is not None}
    yield Album("Memorized captions", judged(bench.tools, tested, shown, library), "One seed each.")
    found = {o.name: o.attacked_pictures for o in outcomes if o.attacked_pictures is not None}
    if found:
        every = bench.memorized.part(outcomes[0].tested)
        searched = every.part([k for k, case in enumerate(every.cases) if len(case.images)])
        cards = judged(
            bench.tools, searched.part(range(min(PICTURES, len(searched)))), found, library
        )
        yield Album("The same captions under attack", cards, "From the embeddings found, one seed.")
    shown = {o.name: o.reference_pictures for o in outcomes if o.reference_pictures is not None}
    yield Album("Reference captions", judged(bench.tools, kept, shown, library), "One seed each.")
