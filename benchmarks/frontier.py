"""What an attack brings back against quality: the frontier in forgetting.py's lines.

    python benchmarks/frontier.py arms.jsonl --figure docs/frontier.svg > tables.md

Figures of the part "test"; a point is a treatment's mean over models and seeds, bars span the
models.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

Line = Mapping[str, Any]
COLUMNS = ("copies", "attacked", "control", "attacked_200", "control_200")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lines", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--part", default="test")
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in arguments.lines.read_text().splitlines()]
    lines = [line for line in lines if arguments.part in line]
    by_model: dict[str, list[Line]] = defaultdict(list)
    by_treatment: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        model, treatment = line["arm"].partition("@")[0].split("/")
        by_model[model].append(line)
        by_treatment[treatment].append(line)
    for model, found in by_model.items():
        print(f"\n{model}\n\n{table(found, arguments.part)}")
    if arguments.figure:
        draw(by_treatment, arguments.part, arguments.figure)


def table(lines: Sequence[Line], part: str) -> str:
    """Markdown, a row an arm."""
    head = ["treatment", "neurons gone", *COLUMNS, "loss", "singles' SSIM", "CLIP", "recall", "s"]
    rows = [head, ["---"] * len(head)]
    for line in lines:
        found = line[part]
        rates = [shown(found[name]["both"]) if name in found else "–" for name in COLUMNS]
        rows.append(
            [
                line["arm"].split("/", 1)[1],
                f"{line['gone']:.0%}",
                *rates,
                f"× {found['loss']:.3f}",
                shown(found["singles_ssim"]),
                f"{found['clip']:.3f}",
                f"{found['recall']:.2f}",
                f"{line['seconds']['teaching']:.0f}",
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def shown(interval: Mapping[str, float]) -> str:
    return f"{interval['value']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]"


def draw(treatments: Mapping[str, Sequence[Line]], part: str, path: Path) -> None:
    """Attack rate (less is better) against singles' SSIM; colour: neurons gone."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "memfast"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    points = []
    for name, lines in treatments.items():
        quality = [line[part]["singles_ssim"]["value"] for line in lines]
        rate = [line[part]["attacked"]["both"]["value"] for line in lines]
        x, y = fmean(quality), fmean(rate)
        axes.plot([min(quality), max(quality)], [y, y], color="0.75", zorder=1)
        axes.plot([x, x], [min(rate), max(rate)], color="0.75", zorder=1)
        axes.annotate(f"{name} ({len(lines)})", (x, y), (4, 4), textcoords="offset points", size=7)
        points.append((x, y, fmean(line["gone"] for line in lines)))
    xs, ys, gone = zip(*points, strict=True)
    marks = axes.scatter(xs, ys, c=gone, cmap="viridis", vmin=0, vmax=1, zorder=2)
    figure.colorbar(marks, label="feed-forward neurons gone")
    axes.set_xlabel("singles' SSIM to the original's images")
    axes.set_ylabel("brought back by 50 steps of attack")
    axes.set_ylim(-0.05, 1.05)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
