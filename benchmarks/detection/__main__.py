"""See the package's docstring."""

import argparse
from pathlib import Path

import torch

from benchmarks.detection.collect import collect
from memfast.demo import DATA


def main() -> None:
    """Runs one of the parts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection")
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("collect")
    part.add_argument("--data", type=Path, default=DATA, help="in the layout of the demo's data")
    part.add_argument("--out", type=Path, required=True)
    part.add_argument("--noises", type=int, default=1)
    part.add_argument("--walk", type=int, default=0, help="steps of the longest walk")
    part.add_argument("--peers", action="store_true")
    part.add_argument("--singles", type=int, default=100, help="of the singles, and of each list")
    part.add_argument("--foreign", type=Path, nargs="*", default=[], help="lists of other captions")
    part.add_argument("--device", default="cpu")
    given = vars(parser.parse_args())
    torch.set_num_threads(1)
    del given["part"]
    out = given.pop("out")
    collect(**given).save(out)


if __name__ == "__main__":
    main()
