"""The report's pages of an evaluation and of an attack."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from memfast.evaluation.results import HEADLINE, Row
from memfast.evaluation.run import AttackReport, Evaluation
from memfast.report.report import Report

PICTURES = 16
INTERVALS = (
    "Intervals are 95 %, resampled over groups of near-duplicate captions. A claim is shown only "
    "where the interval lies below its control's for every headline metric."
)


Table = tuple[str, list[str], list[list[Any]]]  # title, columns, rows


def methods_tables(result: Evaluation) -> list[Table]:
    """Every method beside its controls: copies, copies under attack, and quality with cost."""
    first = result.rows[0]
    headline = [m for m in HEADLINE if m in first.rates] or list(first.rates)
    copies = [
        [row.name, *(str(row.rates[m]["all"]) for m in headline), _claim(row)]
        for row in result.rows
    ]
    tables: list[Table] = [
        (
            "Copies, and whether they are fewer than the controls'",
            ["method", *(f"by {m}" for m in headline), "fewer"],
            copies,
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
    return [*tables, _quality(result)]


def _quality(result: Evaluation) -> Table:
    first = result.rows[0]
    features = result.bench.network[0] if result.bench.network else ""
    optional = (
        ("CLIP score", "reference", "clip"),
        (f"FID ({features})", "singles", "fid"),
        (f"KID ({features})", "singles", "kid"),
    )
    shown = [o for o in optional if o[2] in getattr(first, o[1])]
    columns = [
        "method",
        "lives in",
        "SSIM to original",
        "reference loss",
        *(f"held-out {name}" for name in first.heldout if first.heldout[name].count),
        *(name for name, _, _ in shown),
        "parameters",
        "s an image",
    ]
    rows = [
        [
            row.name,
            row.lives_in,
            str(row.reference["ssim"]),
            str(row.reference["loss_ratio"]),
            *(str(v) for v in row.heldout.values() if v.count),
            *(_figure(row, kind, name) for _, kind, name in shown),
            round(row.singles["parameters"]),
            row.singles["seconds"],
        ]
        for row in result.rows
    ]
    return "Reference captions, size and cost (loss as a multiple of the original's)", columns, rows


def _figure(row: Row, kind: str, name: str) -> Any:
    value = getattr(row, kind)[name]
    return value if isinstance(value, float) else str(value)


def _claim(row: Row) -> str:
    claims = [v for name, v in row.verdicts.items() if not name.endswith("under attack")]
    if not claims:
        return ""
    return "shown" if set(claims) == {"shown"} else "not shown"


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
        f"captions, {result.bench.repeats} repetitions",
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
    claims = [(row.name, claim, v) for row in result.rows for claim, v in row.verdicts.items()]
    if claims:
        page.table("Claims", ("method", "claim", "verdict"), claims)
    page.table(
        "Memorization rate by metric and kind of caption",
        ("method", "metric", "captions", "rate", "prompts"),
        [
            (row.name, metric, part, str(rate), rate.count)
            for row in result.rows
            for metric, parts in row.rates.items()
            for part, rate in parts.items()
        ],
        searchable=True,
    )
    _pictures(page, result)
    _missing(page, result.missing, result.notes)
    return page


def _pictures(page: Report, result: Evaluation) -> None:
    outcomes = [o for o in result.outcomes.values() if o.mitigation.source != "control"]
    cases = result.bench.memorized.cases
    columns = ["caption", "training image"]
    images: list[Tensor | None] = []
    for outcome in outcomes:
        columns.append(outcome.mitigation.name)
        images.append(outcome.pictures)
        if outcome.attacked_pictures is not None:
            columns.append(f"{outcome.mitigation.name}, under attack")
            images.append(outcome.attacked_pictures)
    searched = [place for place in outcomes[0].tested if len(cases[place].images)]
    rows = []
    for place, index in enumerate(outcomes[0].tested[:PICTURES]):
        own = cases[index].images[0] if len(cases[index].images) else None
        row: list[Tensor | None] = [own]
        for column, stack in zip(columns[2:], images, strict=True):
            at = place
            if column.endswith(", under attack"):
                at = searched.index(index) if index in searched else len(searched)
            row.append(stack[at] if stack is not None and at < len(stack) else None)
        rows.append((cases[index].text, row))
    page.pictures("Memorized captions, first repetition", columns, rows)
    kept = outcomes[0].reference_tested[:PICTURES]
    page.pictures(
        "Reference captions",
        ["caption", *(outcome.mitigation.name for outcome in outcomes)],
        [
            (
                result.bench.reference.cases[index].text,
                [
                    None if o.reference_pictures is None else o.reference_pictures[place]
                    for o in outcomes
                ],
            )
            for place, index in enumerate(kept)
        ],
    )


def _missing(page: Report, missing: Mapping[str, str], notes: Sequence[str]) -> None:
    if missing:
        page.table("What did not run", ("what", "why"), why_missing(missing))
    if notes:
        page.text("Notes", *notes[:50])


def attack_table(result: AttackReport) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows: every set of images, start, number of steps and metric."""
    columns = ["images", "start", "steps", "metric", "brought back", "images tried"]
    rows = [
        [r["images"], r["start"], r["steps"], r["metric"], str(r["rate"]), r["rate"].count]
        for r in result.rows()
    ]
    return columns, rows


def attack_page(result: AttackReport) -> Report:
    """The page of `memfast attack`."""
    page = Report("memfast attack", "can a searched embedding bring training images back?")
    page.text(
        "How to read this",
        "Memorized: the images under test. Control: the same attack on images that the model does "
        "not replicate; what the attack does to them is what it can do without memory.",
        INTERVALS,
    )
    page.table("Rates", *attack_table(result), searchable=True)
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
            "The embeddings' nearest words", ("caption", "words"), sorted(result.projected.items())
        )
    if result.extracted:
        page.table(
            "Extraction",
            ("caption", "images alike", "seeds", "extracted", "image"),
            [(e.id, e.clique, e.seeds, e.extracted, e.picture) for e in result.extracted],
        )
    _missing(page, result.tools.missing, result.notes)
    return page
