"""See the package's docstring."""

import argparse
import json
import traceback
from pathlib import Path

import torch

from benchmarks.detection.collect import collect
from benchmarks.detection.columns import Columns
from benchmarks.detection.judge import judge, table
from memfast.demo import DATA


def main() -> None:
    """Runs one of the parts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection")
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("collect")
    part.add_argument("data", type=Path, nargs="+", help="folders like the demo's data, or 'demo'")
    part.add_argument("--out", type=Path, required=True, help="folder for an npz a model")
    part.add_argument("--noises", type=int, default=1)
    part.add_argument("--walk", type=int, default=0, help="steps of the longest walk")
    part.add_argument("--peers", action="store_true")
    part.add_argument("--sampling", action="store_true", help="the peer that looks after sampling")
    part.add_argument("--singles", type=int, default=100, help="of the singles, and of each list")
    part.add_argument("--foreign", type=Path, nargs="*", default=[], help="lists of other captions")
    part.add_argument("--device", default="cpu")
    part.add_argument("--unit", type=int, default=32, help="captions a call")
    judged = parts.add_parser("judge")
    judged.add_argument("looks", type=Path, nargs="+", help="what collect wrote")
    judged.add_argument("--choose", nargs="+", required=True, help="models to choose on")
    judged.add_argument("--rows", type=float, default=5)
    judged.add_argument("--out", type=Path, required=True)
    given = vars(parser.parse_args())
    torch.set_num_threads(1)
    if given.pop("part") == "judge":
        report = judge([Columns.load(x) for x in given["looks"]], given["choose"], given["rows"])
        given["out"].write_text(json.dumps(report, indent=1) + "\n")
        print(
            table(report, report["ranking"][:12]) + "\n\n" + table(report, sorted(report["scores"]))
        )
        return
    out, folders = given.pop("out"), given.pop("data")
    out.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        try:
            data = DATA if str(folder) == "demo" else folder
            collect(data, **given).save(out / f"{folder.name}.npz")
            print(f"{folder.name} looked at", flush=True)
        except Exception:  # the others are worth having
            traceback.print_exc()


if __name__ == "__main__":
    main()
