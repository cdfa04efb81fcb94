"""Scores of what was collected: what an audit would say of it, combinations, and peers."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.detection.columns import Columns
from memfast.auditing.looking.combining import COMBINATIONS, exceeded

Values = NDArray[np.float64]
PATHS = ((0.3, 0.05), (0.2, 0.05), (0.3, 0.1), (0.4, 0.1), (0.4, 0.05), (0.6, 0.2), (0.6, 0.1))
LONG = (0.6, 0.4, 0.3, 0.2, 0.1, 0.05)
GATES = (0.05, 0.1)
NEURONS = ("energy", "located", "discriminant")
LEARNT = ("located", "discriminant")  # from memorized examples too
Named = dict[str, tuple[float, Values]]  # rows, [prompts, noises]


def every_score(columns: Columns) -> Named:
    """Every score by name, with its mean rows a prompt: the peers' names begin with an author's."""
    found = {
        name: (float(columns.rows[name]), value)
        for name, value in columns.values.items()
        if name.partition("@")[0]
        in ("norm", "relative", "picture", "change", "shared relative", *NEURONS)
    }
    for path in (*PATHS, LONG):
        parts = [f"relative@{level:g}" for level in path]
        if all(part in columns.values for part in parts):
            found |= combined(columns, parts, 1 + 2 * len(path))
    for path in ((0.3,), (0.05,), (0.3, 0.05)):
        for kind in NEURONS:
            parts = [f"{score}@{level:g}" for level in path for score in ("relative", kind)]
            if all(part in columns.values for part in parts):
                name = f"mean {'+'.join(parts)}"
                found[name] = 1.0 + 2 * len(path), combination(columns, "mean", parts)
    for gate in GATES:
        found |= gated(columns, gate)
    return found | peers(columns)


def combination(columns: Columns, name: str, parts: Sequence[str]) -> Values:
    """One of the audit's combinations of columns, a noise at a time. Signed ones are compared by
    their values' exponential, since a combination takes logarithms."""
    signed = [part.startswith(("discriminant", "shared cosine", "alignment")) for part in parts]
    tables = np.stack(
        [
            np.exp(standard(columns, p)) if s else columns.values[p]
            for p, s in zip(parts, signed, strict=True)
        ],
        2,
    )
    return np.stack(
        [
            COMBINATIONS[name]
            .of(torch.from_numpy(t), torch.from_numpy(t[columns.reference]))
            .numpy()
            for t in tables.transpose(1, 0, 2)
        ],
        1,
    )


def standard(columns: Columns, name: str) -> Values:
    """A column in the references' deviations from their mean."""
    values = columns.values[name]
    seen = values[columns.reference]
    return (values - seen.mean(0)) / seen.std(0, ddof=1)


def combined(columns: Columns, parts: Sequence[str], rows: int) -> Named:
    """All combinations of parts."""
    levels = ", ".join(part.partition("@")[2] for part in parts)
    names = [name for name, each in COMBINATIONS.items() if each.parts]
    return {f"levels {levels} {n}": (float(rows), combination(columns, n, parts)) for n in names}


def gated(columns: Columns, gate: float) -> Named:
    """The long path, for the share of references with the highest look at its last level, and for
    prompts that look higher than they; the mean rows are those of held-out captions."""
    parts = [f"relative@{level:g}" for level in LONG]
    if not all(part in columns.values for part in parts):
        return {}
    last = columns.values[parts[-1]]
    edge = exceeded(torch.from_numpy(last[columns.reference]), gate).numpy()
    earns = last > edge
    others = (columns.kind == "heldout") & ~columns.reference
    rows = 3 + 2 * (len(parts) - 1) * float(earns[others].mean())
    found: Named = {}
    for name in (name for name, each in COMBINATIONS.items() if each.parts):
        whole, one = combination(columns, name, parts), combination(columns, name, parts[-1:])
        found[f"adaptive {gate:g} {name}"] = rows, np.where(earns, whole, one)
    return found


def peers(columns: Columns) -> Named:
    """What others propose, of those whose looks were collected."""
    held, found = columns.values, {}
    if "norm@1" in held:
        found["Wen, first step"] = 1.0, held["norm@1"]
    steps = [held[f"norm@step{k}"] for k in range(2, 11) if f"norm@step{k}" in held]
    if len(steps) == 9:
        found["Wen, ten steps"] = 19.0, (held["norm@1"] + sum(steps)) / 10
    if "entropy" in held:
        found["Ren, attention entropy"] = 1.0, held["entropy"]
    if "curvature" in held:
        found["Jeon, Hessian"] = 3.0, held["curvature"]
    if "alignment" in held:
        both = standard(columns, "norm@1") + standard(columns, "alignment")
        found["Asthana, norm and alignment"] = 2.0, both
    if "updates@3" in held:
        found["Huang, three updates"] = 5.0, held["updates@3"]
    if "last step" in held:
        found["Kim, score difference at the end"] = (
            float(columns.rows["last step"]),
            held["last step"],
        )
    return found
