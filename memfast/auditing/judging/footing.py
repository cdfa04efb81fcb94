"""On what an audit's threshold rests, and what its figures allow to be said."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfast.auditing.calibration import Calibration
from memfast.auditing.judging.bulk import FEWEST, most_by_chance, standing
from memfast.auditing.judging.references import Likeness, scores_differ
from memfast.errors import some

REFERENCES, LIST, NONE = "references", "the list itself", "none"  # footings
FOUND, NOTHING, UNSURE, NO_VERDICT = "suspicious", "nothing stands out", "unsure", "no verdict"


@dataclass(frozen=True)
class Footing:
    """Where the threshold of one score comes from, and the verdict that follows.

    basis: "references", "the list itself" or "none". threshold: above it a text is flagged;
    infinite on no footing. error: its 95 % interval, where the list gave it. rates: the estimated
    false-positive rate (on the list: if its tail is normal, if it is exponential). flagged, chance:
    texts above the threshold, and how many chance alone may put there. verdict: "suspicious",
    "nothing stands out", "unsure" or "no verdict"; says: it and its reasons in sentences.
    """

    basis: str
    threshold: float
    verdict: str
    says: list[str]
    flagged: int
    chance: int | None = None
    error: tuple[float, float] | None = None
    rates: tuple[float, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def footing(
    values: NDArray[np.float64],
    column: str,
    calibration: Calibration,
    fpr: float,
    likeness: Likeness | None,
) -> Footing:
    """The footing of a score, given its values of all texts.

    likeness: of the references to the list; None where the list was its own reference.
    """
    if likeness is None:
        return _on_list(values, fpr, ["No references were given."])
    known = calibration.column(column)
    threshold = calibration.threshold(column, fpr)
    foreign, apart = likeness.reasons, scores_differ(values, known, threshold)
    if foreign and apart:
        why = f"The references are captions of another kind and set aside: {', '.join(foreign)}, "
        return _on_list(values, fpr, [f"{why}and so do scores below their threshold."])
    notes = []
    if foreign:
        notes.append(f"The references are captions of another kind: {', '.join(foreign)}.")
    if apart:
        notes.append(
            "Scores below the threshold are not the references': much of the list may be memorized."
        )
    if likeness.outstanding:
        names = some([repr(text) for text in likeness.outstanding])
        notes.append(
            f"Some references stand out themselves and raise the threshold; memorized? {names}"
        )
    return _on_references(values, threshold, len(known), fpr, bool(foreign), notes)


def _on_references(
    values: NDArray[np.float64],
    threshold: float,
    references: int,
    fpr: float,
    foreign: bool,
    notes: list[str],
) -> Footing:
    flagged, rate = int((values > threshold).sum()), max(fpr, 1 / references)
    chance = most_by_chance(len(values), rate)
    says = (
        f"{flagged:,} of {len(values):,} texts stand above a threshold that {rate:.2g} of "
        f"{references:,} references exceed; chance alone may put {chance:,} there."
    )
    verdict = NOTHING if flagged <= chance and not notes else FOUND
    if foreign or (flagged <= chance and notes):
        verdict = UNSURE
    return Footing(REFERENCES, threshold, verdict, [says, *notes], flagged, chance, rates=(rate,))


def _on_list(values: NDArray[np.float64], fpr: float, why: list[str]) -> Footing:
    found = standing(values, fpr)
    if found is None:
        says = (
            f"No verdict: {len(values):,} texts allow no fit of their scores (at least {FEWEST} "
            "with different ones are needed); give --reference. The ranking holds."
        )
        return Footing(NONE, np.inf, NO_VERDICT, [says, *why], 0)
    low, high = found.rates
    about = (
        f"The threshold {found.threshold:.3g} (95 %: {found.low:.3g} to {found.high:.3g}) comes "
        "from the lower half of the list's own scores; false positives are estimated at "
        f"{low:.1g} (a normal tail) to {high:.1g} (an exponential one)."
    )
    says = (
        f"{found.above:,} of {len(values):,} texts stand out from the list; chance alone may put "
        f"{found.chance:,} there."
        if found.anything
        else f"Nothing stands out: {found.above:,} of {len(values):,} texts lie above, and chance "
        f"alone may put {found.chance:,} there. So it is where nothing is memorized, and where "
        "most of the list is: only references tell."
    )
    return Footing(
        LIST,
        found.threshold if found.anything else np.inf,
        FOUND if found.anything else NOTHING,
        [says, about, *why],
        found.above if found.anything else 0,
        found.chance,
        (found.low, found.high),
        found.rates,
    )


def likeness_of(found: Mapping[str, Any]) -> Likeness | None:
    """What a manifest says of the references."""
    return None if found["own"] else Likeness(**found["likeness"])
