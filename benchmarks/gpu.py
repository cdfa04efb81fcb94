"""What memfast costs on the GPU at hand, most important first; every timing behind a check.

    python benchmarks/gpu.py --minutes 6 --out gpu.json [--docs gpu.md] [--only gate,unet]

Can be resumed: a section that `--out` holds whole for this card and this torch is not run again.
Each row is written when it is measured, and none is begun past the minutes; `--docs` writes tables.
On a CPU (`--device cpu`) the shapes are tiny and the figures mean nothing but that it runs.
"""

import argparse
import json
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
from on_gpu.bench import Bench, Row
from on_gpu.commands import auditing, collecting
from on_gpu.kernels import feed_forward, gate, host
from on_gpu.models import unet

from memfast.files import atomic_write_json

SECTIONS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "unet": unet,
    "collecting": collecting,
    "auditing": auditing,
    "feed_forward": feed_forward,
    "gate": gate,
    "host": host,
}


def table(rows: list[Row]) -> str:
    """A markdown table."""
    heads = list(dict.fromkeys(name for row in rows for name in row))
    lines = [heads, ["---"] * len(heads), *([str(row.get(h, "")) for h in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def document(found: dict[str, Any]) -> str:
    """What `--docs` writes."""
    heading = f"# Measured: {found['card']}, {found['date']}, torch {found['torch']}\n"
    units = "Microseconds unless a column says otherwise; made by `benchmarks/gpu.py`.\n"
    parts = [heading, units]
    for name, rows in found["sections"].items():
        body = table(rows["rows"]) + f"\n\n{rows.get('failed', '')}".rstrip()
        parts.append(f"## {name.replace('_', ' ')}\n{SECTIONS[name].__doc__}\n\n{body}\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--docs", type=Path, help="markdown file that takes the tables")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, by commas")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    if unknown := [name for name in wanted if name not in SECTIONS]:
        parser.error(f"--only {','.join(unknown)}: choose from {', '.join(SECTIONS)}")
    bench, start = Bench(arguments.device), time.perf_counter()
    head = {"card": bench.card(), "torch": torch.__version__}
    before = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    same = all(before.get(key) == value for key, value in head.items())
    done = before.get("sections", {}) if same else {}
    found = {**head, "date": date.today().isoformat(), "sections": done}
    for name in wanted:
        if found["sections"].get(name, {}).get("whole"):
            continue
        rows: list[Row] = []
        section: dict[str, Any] = {"rows": rows, "whole": False}
        found["sections"][name] = section
        print(f"{name}", flush=True)
        try:
            for row in SECTIONS[name](bench):
                rows.append({**row, "at": round(time.perf_counter() - start)})
                print(f"  {row}", flush=True)
                atomic_write_json(arguments.out, found)
                if time.perf_counter() - start > 60 * arguments.minutes:
                    break
            else:
                section["whole"] = True
        except Exception as error:
            section["failed"] = f"{type(error).__name__}: {error}"
            print(f"  failed: {section['failed']}\n{traceback.format_exc()}", flush=True)
        atomic_write_json(arguments.out, found)
        if time.perf_counter() - start > 60 * arguments.minutes:
            break
    if arguments.docs:
        arguments.docs.write_text(document(found))


if __name__ == "__main__":
    main()
