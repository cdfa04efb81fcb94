"""The tuning tables: which tile for which kernel and architecture. Data only.

Every entry is compiled ahead of time and held to its bars by `python -m memfast_kernels.aot`.
Within an architecture the rows that are summed together depend on a segment's length alone, so
that the bits of statistics repeat whatever the batch; nothing is autotuned. An architecture
without entries of its own takes those of its nearest relative, or its vendor's ("sm", "gfx",
"xpu"), which ask for little.
"""

import warnings
from functools import cache
from typing import NamedTuple


class Walk(NamedTuple):
    """A chunk of rows × neurons, which a program takes again and again.

    Neurons are those of half precision: in float32 a program of `pointwise`, which holds value and
    gate of four rows, has half as many.
    """

    kernel: str
    architecture: str
    rows: int
    neurons: int
    warps: int

    def of(self, itemsize: int) -> "Walk":
        """For elements of so many bytes."""
        if self.kernel != "pointwise":
            return self
        return self._replace(neurons=self.neurons * 2 // itemsize)


class Product(NamedTuple):
    """A tile of a matrix product: rows × neurons, `channels` a step."""

    kernel: str
    architecture: str
    min_rows: int
    rows: int
    neurons: int
    channels: int
    warps: int
    stages: int


WALKS = (
    #    kernel          architecture  rows neurons warps
    Walk("pointwise",    "sm",           64,     32,    2),
    Walk("pointwise",    "gfx",         128,     64,    4),
    Walk("pointwise",    "xpu",         128,     64,   16),
    Walk("pointwise",    "interpreter", 128,     32,    4),
    Walk("columns",      "sm",           64,     32,    2),
    Walk("columns",      "gfx",         128,     64,    4),
    Walk("columns",      "xpu",         128,     64,   16),
    Walk("columns",      "interpreter", 128,     32,    4),
    Walk("normalised",   "sm",            4,   2048,    8),
    Walk("normalised",   "gfx",           4,   2048,    4),
    Walk("normalised",   "xpu",           4,   2048,   16),
    Walk("normalised",   "interpreter",   4,     32,    4),
)  # fmt: skip

PRODUCTS = (
    #       kernel          architecture  from  rows neurons channels warps stages
    Product("gated_gemm",   "sm_90",         0,  128,     64,      64,    8,     3),
    Product("gated_gemm",   "interpreter",   0,  128,     16,      16,    4,     1),
    Product("gated_tma",    "sm_90",         0,  128,    128,      64,    8,     3),
    Product("gated_tma",    "interpreter",   0,  128,     16,      16,    4,     1),
    Product("dual_gemm",    "sm",            0,   64,     32,      32,    4,     2),
    Product("dual_gemm",    "sm_80",         0,   64,     64,      64,    4,     4),
    Product("dual_gemm",    "sm_80",      2048,   64,    128,      64,    8,     3),
    Product("dual_gemm",    "sm_89",         0,   64,     64,      64,    4,     3),
    Product("dual_gemm",    "sm_90",         0,  128,     64,      64,    8,     3),
    Product("dual_gemm",    "sm_90",      2048,  128,    128,      64,    8,     3),
    Product("dual_gemm",    "sm_100",        0,  128,    128,      64,    8,     3),
    Product("dual_gemm",    "gfx",           0,   64,     64,      32,    4,     2),
    Product("dual_gemm",    "gfx942",        0,  128,    128,      64,    8,     2),
    Product("dual_gemm",    "xpu",           0,   64,     64,      32,    8,     2),
    Product("dual_gemm",    "interpreter",   0,   32,     16,      16,    4,     1),
    Product("dual_tma",     "sm_90",         0,  128,    128,      64,    8,     3),
    Product("dual_tma",     "sm_100",        0,   64,    128,      64,    8,     3),
    Product("dual_tma",     "interpreter",   0,   32,     16,      16,    4,     1),
)  # fmt: skip

# Up to so many channels a prepared gated linear is one kernel; 0: never. By traffic, not measured.
FUSED_CHANNELS = {"sm_90": 640}

RELATIVES = {"sm_86": "sm_89", "sm_87": "sm_80", "sm_103": "sm_100"}


def vendor(architecture: str) -> str:
    """The entries that any architecture of the same maker can run."""
    return next((v for v in ("sm", "gfx", "xpu") if architecture.startswith(v)), architecture)


def walk(kernel: str, architecture: str) -> Walk:
    """The vendor's entry: one layout serves all its architectures."""
    return next(w for w in WALKS if (w.kernel, w.architecture) == (kernel, vendor(architecture)))


@cache
def products(kernel: str, architecture: str) -> tuple[Product, ...]:
    """The architecture's entries, or its relative's, or its vendor's; few rows first."""
    architecture = RELATIVES.get(architecture, architecture)
    found = tuple(p for p in PRODUCTS if (p.kernel, p.architecture) == (kernel, architecture))
    if found or vendor(architecture) == architecture:
        return found
    safe = products(kernel, vendor(architecture))
    if safe:
        warnings.warn(
            f"memfast_kernels has no tile of {kernel} tuned for {architecture}: "
            "it takes one that is safe everywhere, not the fastest",
            RuntimeWarning,
            stacklevel=2,
        )
    return safe


def tile(kernel: str, architecture: str, rows: int) -> Product:
    """The last entry whose `min_rows` the rows reach."""
    return [p for p in products(kernel, architecture) if p.min_rows <= rows][-1]
