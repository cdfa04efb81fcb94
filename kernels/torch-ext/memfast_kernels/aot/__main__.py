"""Compiles the tuning table for every architecture, prints what came out, exits 1 on a missed bar.

Usage: python -m memfast_kernels.aot [--json] [ARCHITECTURE ...]. Results are cached by Triton.
"""

import argparse
import json
import os
import sys

import triton

from ..triton_backend.tuning import Product
from .bars import ATOMICS, BARS, EXCHANGES, MATRIX, Row, judge
from .cases import ARCHITECTURES, cases
from .inspection import Report, inspect

COLUMNS = (
    "kernel", "architecture", "tile", "dtype", "warps", "moments", "masked", "one", "registers",
    "stack", "spills", "shared", "blocks", "matrix", "shuffles", "exchanged", "atomics", "added",
)  # fmt: skip


def table(architectures: list[str]) -> list[Row]:
    """Compiles and judges every case of the architectures."""
    plain: dict[tuple, Report] = {}
    rows = []
    for case in cases():
        if case.architecture not in architectures:
            continue
        report = inspect(triton.compile(case.source, target=case.target, options=case.options))
        same = (case.tile, case.architecture, case.dtype)
        if not case.moments:
            plain[same] = report
        rows.append(judge(case, report, plain.get(same) if case.moments else None))
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return rows


def record(row: Row) -> dict[str, object]:
    """A row as plain data."""
    tile, report = row.case.tile, row.report
    last = f"x{tile.channels}_s{tile.stages}" if isinstance(tile, Product) else ""
    shape = f"{tile.rows}x{tile.neurons}{last}"
    return dict(
        zip(
            COLUMNS,
            (
                tile.kernel,
                row.case.architecture,
                shape,
                row.case.dtype,
                tile.warps,
                row.case.moments,
                row.case.masked,
                row.case.one,
                report.registers,
                report.stack,
                report.spills,
                report.shared,
                row.occupancy,
                report.count(MATRIX.get(row.case.architecture, "HMMA")),
                report.count("SHFL", "ds_bpermute", "ds_swizzle"),
                report.in_loop(*EXCHANGES),
                report.count(*ATOMICS),
                None if row.added is None else round(row.added, 2),
            ),
            strict=True,
        ),
        missed=list(row.missed),
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m memfast_kernels.aot", description=__doc__)
    parser.add_argument("architectures", nargs="*", help=f"of {', '.join(ARCHITECTURES)}")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    arguments = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 is set: the interpreter and the compiler share no process")
    if unknown := set(arguments.architectures) - set(ARCHITECTURES):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(ARCHITECTURES)}")
    records = [record(row) for row in table(arguments.architectures or list(ARCHITECTURES))]
    if arguments.json:
        print(json.dumps({"triton": triton.__version__, "bars": list(BARS), "rows": records}))
    else:
        widths = [max(len(name), *(len(str(r[name])) for r in records)) for name in COLUMNS]
        for line in [dict(zip(COLUMNS, COLUMNS, strict=True)), *records]:
            cells = (
                str(line[name]).rjust(width) for name, width in zip(COLUMNS, widths, strict=True)
            )
            print(" ".join(cells), *(f"MISSED: {name}" for name in line.get("missed", ())))
    missed = sum(bool(r["missed"]) for r in records)
    print(f"{len(records)} kernels compiled, {missed} miss a bar", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
