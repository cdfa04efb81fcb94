"""What an attack brings back against quality: the frontier, as docs/forgetting.md shows it.

    python benchmarks/frontier.py docs/frontier.jsonl [arms.jsonl ...] --figure docs/frontier.svg

A line is a point (model, treatment, gone, ssim, attacked; without ssim, an attack rate that others
state of another model) or one of forgetting.py's, of which the part "test" counts; those are
printed as tables as well.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Line = Mapping[str, Any]
COLUMNS = ("copies", "attacked", "control", "attacked_200", "control_200")
MARKS = "os^Dvp"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lines", type=Path, nargs="+")
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    lines = [json.loads(x) for path in arguments.lines for x in path.read_text().splitlines()]
    arms = [line for line in lines if "test" in line]
    if arms:
        print(table(arms, "validation"), table(arms, "test"), sep="\n\n")
    if arguments.figure:
        points = [point(line) for line in lines if "test" in line or "treatment" in line]
        draw(points, arguments.figure)


def point(line: Line) -> Line:
    """A line as a point."""
    if "treatment" in line:
        return line
    model, treatment = line["arm"].split("/", 1)
    found = line["test"]
    return {
        "model": model,
        "treatment": treatment,
        "gone": line["gone"],
        "ssim": found["singles_ssim"]["value"],
        "attacked": found["attacked"]["both"]["value"],
    }


def table(lines: Sequence[Line], part: str) -> str:
    """Markdown, a row an arm."""
    head = [part, "neurons gone", *COLUMNS, "loss", "singles' SSIM", "CLIP", "recall", "s"]
    rows = [head, ["---"] * len(head)]
    for line in lines:
        found = line[part]
        rates = [shown(found[name]["both"]) if name in found else "–" for name in COLUMNS]
        rows.append(
            [
                line["arm"],
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


def draw(points: Sequence[Line], path: Path) -> None:
    """Attack rate (less is better) against singles' SSIM, numbered; colour: neurons gone."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams |= {"svg.hashsalt": "memfast", "svg.fonttype": "none"}
    from matplotlib import pyplot

    figure, (axes, key) = pyplot.subplots(1, 2, figsize=(9, 4.4), width_ratios=(3, 2))
    by_model: dict[str, list[tuple[int, Line]]] = defaultdict(list)
    anchors = [found for found in points if "ssim" not in found]
    points = [found for found in points if "ssim" in found]
    for found in anchors:
        axes.axhline(found["attacked"], color="0.8", linewidth=0.8, linestyle=":", zorder=0)
        told = f"{found['treatment']} ({found['model']})"
        axes.text(0.56, found["attacked"] + 0.01, told, size=6, color="0.45")
    for number, found in enumerate(points, 1):
        by_model[found["model"]].append((number, found))
    marks = None
    for mark, (model, listed) in zip(MARKS, by_model.items(), strict=False):
        xs, ys = ([found[name] for _, found in listed] for name in ("ssim", "attacked"))
        gone = [found["gone"] for _, found in listed]
        marks = axes.scatter(
            xs, ys, c=gone, marker=mark, cmap="viridis", vmin=0, vmax=1, label=model, clip_on=False
        )
        for number, found in listed:
            where = (found["ssim"], found["attacked"])
            axes.annotate(str(number), where, (3, 3), textcoords="offset points", size=7)
    if marks is not None:
        figure.colorbar(marks, ax=axes, label="feed-forward neurons gone")
    axes.set_xlabel("singles' SSIM to the original's images")
    axes.set_ylabel("brought back by 50 steps of attack")
    axes.set(xlim=(0.55, 1.01), ylim=(-0.03, 1.05))
    axes.legend(title="model", loc="center left", fontsize=8)
    key.axis("off")
    told = [f"{number}  {found['treatment']}" for number, found in enumerate(points, 1)]
    key.text(0, 1, "\n".join(told), va="top", size=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
