"""Scores of what was collected: what an audit would say of it, combinations, and peers."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.detection.columns import Columns
from memfast.auditing.looking.combining import COMBINATIONS, EVERY, exceeded

Values = NDArray[np.float64]
PATHS = ((0.05,), (0.1,), (0.2,), (0.3, 0.05), (0.2, 0.05), (0.3, 0.1), (0.4, 0.05), (0.6, 0.05))
LONG = (0.6, 0.4, 0.3, 0.2, 0.1, 0.05)
GATES = (0.05, 0.1, 0.15)
NAMES = [name for name in COMBINATIONS if name != EVERY]
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
        found |= combined(columns, path)
    for gate in GATES:
        found |= gated(columns, gate)
    return found | peers(columns)


def combination(columns: Columns, name: str, parts: Sequence[str]) -> Values:
    """One of the audit's combinations of columns, a noise at a time."""
    tables = np.stack([columns.values[part] for part in parts], 2).transpose(1, 0, 2)
    known = tables[:, columns.reference]
    pairs = zip(tables, known, strict=True)
    found = [COMBINATIONS[name](*(torch.from_numpy(x) for x in pair)).numpy() for pair in pairs]
    return np.stack(found, 1)


def standard(columns: Columns, name: str) -> Values:
    """A column in the references' deviations from their mean."""
    values = columns.values[name]
    seen = values[columns.reference]
    return (values - seen.mean(0)) / seen.std(0, ddof=1)


def combined(columns: Columns, path: Sequence[float]) -> Named:
    """All combinations of the parts at some levels; with the neurons' energy at the last of them;
    and the mean with a subspace's, located on memorized examples."""
    parts, levels = [f"relative@{level:g}" for level in path], ", ".join(map(str, path))
    beside = [(name, kind) for name in NAMES for kind in (None, "energy")] + [("mean", "located")]
    found: Named = {}
    for name, kind in beside:
        taken = parts if kind is None else [*parts, f"{kind}@{path[-1]:g}"]
        where = levels if kind is None else f"{levels} + {kind}"
        found[f"{name} of {where}"] = 1.0 + 2 * len(path), combination(columns, name, taken)
    return found


def gated(columns: Columns, gate: float) -> Named:
    """The last level for every prompt, the others for those as far from the references there as a
    share `gate` of them; the mean rows are those of held-out captions."""
    last, others = ["relative@0.05", "energy@0.05"], ["relative@0.3"]
    far = combination(columns, "distance", last)
    edge = exceeded(torch.from_numpy(far[columns.reference]), gate).numpy()
    earns = far > edge
    heldout = (columns.kind == "heldout") & ~columns.reference
    rows = 3 + (1 + 2 * len(others)) * float(earns[heldout].mean())
    whole = combination(columns, "distance", [*others, *last])
    return {f"adaptive {gate:g}, distance": (rows, np.where(earns, whole, far))}


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
