"""The report's pages of an evaluation and of an attack."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from memfast.attacks.run import AttackReport
from memfast.evaluation.results import HEADLINE, all_below
from memfast.evaluation.run import Evaluation
from memfast.measuring.cases import Case
from memfast.measuring.rates import Interval
from memfast.report.report import Report

PICTURES = 16
QUALITIES = {"ssim": "SSIM to the original", "loss_ratio": "loss over its", "clip": "CLIP score"}
INTERVALS = (
    "Intervals are 95 %, resampled over groups of near-duplicate captions. A claim is shown only "
    "where the interval lies below its control's for every headline metric."
)


Table = tuple[str, list[str], list[list[Any]]]  # title, columns, rows


def methods_tables(result: Evaluation) -> list[Table]:
    """Every method beside its controls: copies, copies under attack, quality, and cost."""
    first = result.rows[0]
    headline = [m for m in HEADLINE if m in first.rates] or list(first.rates)
    claims = list(dict.fromkeys(claim for row in result.rows for claim in row.verdicts))
    tables: list[Table] = [
        (
            "Copies",
            ["method", "lives in", *(f"by {m}" for m in headline)],
            [
                [row.name, row.lives_in, *(str(row.rates[m]["all"]) for m in headline)]
                for row in result.rows
            ],
        )
    ]
    if first.attacked:
        tables.append(
            (
                "Copies under attack, and the same attack on images that are not memorized",
                ["method", *(f"by {m}" for m in headline), *(f"control, {m}" for m in headline)],
                [
                    [
                        row.name,
                        *(str(row.attacked[m]) for m in headline),
                        *(str(row.attack_control[m]) for m in headline),
                    ]
                    for row in result.rows
                    if row.attacked
                ],
            )
        )
    if claims:
        verdicts = [[row.name, *(row.verdicts.get(c, "") for c in claims)] for row in result.rows]
        tables.append(
            (
                "Claims: are there fewer copies than",
                ["method", *(claim.removeprefix("fewer copies than ") for claim in claims)],
                [cells for cells in verdicts if any(cells[1:])],
            )
        )
    tables.append(_quality(result, "reference", "reference"))
    if first.heldout:
        tables.append(_quality(result, "heldout", "held-out"))
    return [*tables, _cost(result)]


def _quality(result: Evaluation, kind: str, words: str) -> Table:
    """Means over captions that are not memorized, where anything is known."""
    figures = getattr(result.rows[0], kind)
    columns = {n: title for n, title in QUALITIES.items() if n in figures and figures[n].count}
    rows = [[row.name, *(str(getattr(row, kind)[n]) for n in columns)] for row in result.rows]
    return f"Quality on {words} captions", ["method", *columns.values()], rows


def _cost(result: Evaluation) -> Table:
    """Size, seconds, and the distances of whole sets of images."""
    network = result.bench.network[0] if result.bench.network else ""
    distances = [d for d in ("fid", "kid") if d in result.rows[0].singles]
    whole = result.rows[0].singles["parameters"]
    columns = ["method", "removed", "parameters", "smaller", "s an image"]
    rows = [
        [
            row.name,
            row.singles["removed"],
            round(row.singles["parameters"]),
            "yes" if row.singles["parameters"] < whole else "no",
            row.singles["seconds"],
            *(row.singles[d] for d in distances),
        ]
        for row in result.rows
    ]
    named = [f"{d.upper()} ({network})" for d in distances]
    return "Size, cost, and distances of reference images", [*columns, *named], rows


def why_missing(missing: Mapping[str, str]) -> list[tuple[str, str]]:
    """(names, reason) of what did not run, equal reasons together."""
    reasons: dict[str, list[str]] = {}
    for name, reason in missing.items():
        reasons.setdefault(reason, []).append(name)
    return [(", ".join(names), reason) for reason, names in reasons.items()]


def evaluation_page(result: Evaluation) -> Report:
    """The page of `memfast evaluate`."""
    page = Report(
        "memfast evaluate",
        f"{len(result.bench.memorized)} memorized and {len(result.bench.reference)} reference "
        f"captions; repetitions: {result.bench.repeats}",
    )
    page.text(
        "How to read this",
        "Copies: the share of memorized captions of which an image of any seed passes the metric's "
        "threshold against any of the caption's training images. Methods learn from one half of "
        "the captions and are tested on the other, unless the model was made beforehand.",
        "Under attack: the share of training images that a searched text embedding brings back. "
        "Its control is the same attack on images that the model does not replicate: a rate that "
        "is not above the control's says nothing about memorization.",
        "A method that lives in the pipeline is skipped by whoever has the weights, so the "
        "original's rate under attack is its own.",
        INTERVALS,
    )
    for heading, columns, rows in methods_tables(result):
        page.table(heading, columns, rows)
    page.table(
        "Memorization rate by metric and kind of caption",
        ("method", "metric", "captions", "rate", "prompts"),
        [
            (row.name, metric, part, str(rate), rate.count)
            for row in result.rows
            for metric, parts in row.rates.items()
            for part, rate in parts.items()
            if rate.count
        ],
        searchable=True,
    )
    _pictures(page, result)
    _missing(page, result.missing, result.notes)
    return page


def _pictures(page: Report, result: Evaluation) -> None:
    outcomes = [o for o in result.outcomes.values() if o.source != "control"]
    names = [outcome.name for outcome in outcomes]
    tested = [result.bench.memorized.cases[index] for index in outcomes[0].tested]
    searched = [case for case in tested if len(case.images)]
    attacked = [outcome for outcome in outcomes if outcome.attacked_pictures is not None]
    kept = [result.bench.reference.cases[index] for index in outcomes[0].reference_tested]
    page.pictures(
        "Memorized captions, first repetition",
        ["caption", "training image", *names],
        _grid(tested, [_first_images(tested), *(o.pictures for o in outcomes)]),
    )
    if attacked:
        page.pictures(
            "The same captions under attack",
            ["caption", "training image", *(outcome.name for outcome in attacked)],
            _grid(searched, [_first_images(searched), *(o.attacked_pictures for o in attacked)]),
            note="Images from the embeddings found, one seed.",
        )
    page.pictures(
        "Reference captions",
        ["caption", "training image", *names],
        _grid(kept, [_first_images(kept), *(o.reference_pictures for o in outcomes)]),
    )


def _first_images(cases: Sequence[Case]) -> list[Tensor | None]:
    return [case.images[0] if len(case.images) else None for case in cases]


def _grid(cases: Sequence[Case], columns: Sequence[Any]) -> list[tuple[str, list[Tensor | None]]]:
    """Rows of a picture grid: a caption, and its picture of every column."""
    return [
        (case.text, [None if column is None else column[place] for column in columns])
        for place, case in enumerate(cases[:PICTURES])
    ]


def _missing(page: Report, missing: Mapping[str, str], notes: Sequence[str]) -> None:
    if missing:
        page.table("What did not run", ("what", "why"), why_missing(missing))
    if notes:
        page.text("Notes", *notes[:50])


def attack_table(result: AttackReport) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows: every set of images, start and number of steps, with every metric's rate.

    The last column: do more memorized images come back than under the same attack on the control,
    beyond both intervals and by every headline metric?
    """
    found: dict[tuple[str, str, int], dict[str, Interval]] = {}
    for row in result.rows():
        if row["rate"].count:
            key = (row["images"], row["start"], row["steps"])
            found.setdefault(key, {})[row["metric"]] = row["rate"]
    metrics = list(dict.fromkeys(metric for rates in found.values() for metric in rates))
    rows = []
    for (images, start, steps), rates in found.items():
        control = found.get(("control", start, steps))
        claim = all_below(control, rates) if control and images != "control" else ""
        figures = [str(rates[m]) if m in rates else "" for m in metrics]
        rows.append([images, start, str(steps or ""), *figures, claim])
    return ["images", "start", "steps", *metrics, "more than control"], rows


def attack_page(result: AttackReport) -> Report:
    """The page of `memfast attack`."""
    page = Report("memfast attack", "can a searched embedding bring training images back?")
    page.text(
        "How to read this",
        "Memorized: the images under test. Control: the same attack on images that the model does "
        "not replicate; what the attack does to them is what it can do without memory. Any: at "
        "least one start brought the image back. Below the attack: other words, and the words "
        "nearest to the embeddings found.",
        "Intervals are 95 %, resampled over groups of near-duplicate captions. More than control "
        "is shown only where the intervals do not overlap for any headline metric.",
    )
    page.table("Images brought back", *attack_table(result), searchable=True)
    captions = {case.id: case.text for case in result.attacked["memorized"].cases.cases}
    for name, found in result.attacked.items():
        page.pictures(
            f"Under attack: {name}",
            ("caption", "training image", "found"),
            [
                (case.text, (case.images[0], picture))
                for case, picture in zip(found.cases.cases, found.pictures, strict=True)
            ][:PICTURES],
        )
    if result.projected:
        page.table(
            "The embeddings' nearest words",
            ("caption", "words"),
            [(captions.get(name, name), words) for name, words in result.projected.items()],
        )
    if result.extracted:
        page.table(
            "Extraction",
            ("caption", "images alike", "seeds", "extracted", "image"),
            [
                (captions.get(e.id, e.id), e.clique, e.seeds, e.extracted, e.picture)
                for e in result.extracted
            ],
        )
    _missing(page, result.tools.missing, result.notes)
    return page
