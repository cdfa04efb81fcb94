"""The tuning table: which tile for which kernel, architecture and number of rows. Data only.

Every entry is compiled ahead of time and held to its bars by `python -m memfast_kernels.aot`. The
choice is a function of the shape alone, and within an architecture a kernel's statistics always
use the same number of rows, so that their bits repeat; nothing is autotuned.
"""

from typing import NamedTuple


class Tile(NamedTuple):
    """rows × neurons of one program; channels: of one step of a matrix product."""

    kernel: str
    architecture: str
    min_rows: int
    rows: int
    neurons: int
    channels: int
    warps: int
    stages: int


TILES = (
    #    kernel          architecture  from  rows neurons channels warps stages
    Tile("pointwise",    "sm_80",         0,   64,    128,       0,    4,     1),
    Tile("pointwise",    "sm_89",         0,   64,    128,       0,    4,     1),
    Tile("pointwise",    "sm_90",         0,   64,    128,       0,    4,     1),
    Tile("pointwise",    "sm_100",        0,   64,    128,       0,    4,     1),
    Tile("pointwise",    "gfx942",        0,  128,     64,       0,    4,     1),
    Tile("pointwise",    "interpreter",   0,   32,     32,       0,    4,     1),
    Tile("columns",      "sm_80",         0,  128,     64,       0,    8,     1),
    Tile("columns",      "sm_89",         0,  128,     64,       0,    8,     1),
    Tile("columns",      "sm_90",         0,  128,     64,       0,    8,     1),
    Tile("columns",      "sm_100",        0,  128,     64,       0,    8,     1),
    Tile("columns",      "gfx942",        0,  128,     64,       0,    4,     1),
    Tile("columns",      "interpreter",   0,   32,     32,       0,    4,     1),
    Tile("dual_gemm",    "sm_80",         0,   64,     64,      64,    4,     4),
    Tile("dual_gemm",    "sm_80",      2048,   64,    128,      64,    8,     3),
    Tile("dual_gemm",    "sm_89",         0,   64,     64,      64,    4,     3),
    Tile("dual_gemm",    "sm_90",         0,  128,     64,      64,    8,     3),
    Tile("dual_gemm",    "sm_90",      2048,  128,    128,      64,    8,     3),
    Tile("dual_gemm",    "sm_100",        0,  128,    128,      64,    8,     3),
    Tile("dual_gemm",    "gfx942",        0,  128,    128,      64,    8,     2),
    Tile("dual_gemm",    "interpreter",   0,   32,     16,      16,    4,     1),
    Tile("dual_tma",     "sm_90",         0,  128,    128,      64,    8,     3),
    Tile("dual_tma",     "sm_100",        0,   64,    128,      64,    8,     3),
    Tile("dual_tma",     "interpreter",   0,   32,     16,      16,    4,     1),
)  # fmt: skip

# An architecture that has no entries of its own takes those of its nearest relative.
RELATIVES = {"sm_86": "sm_89", "sm_87": "sm_80", "sm_103": "sm_100", "sm_120": "sm_89"}


def tile(kernel: str, architecture: str, rows: int) -> Tile:
    """The last entry of the kernel and the architecture whose `min_rows` the rows reach."""
    architecture = RELATIVES.get(architecture, architecture)
    found = [
        entry
        for entry in TILES
        if (entry.kernel, entry.architecture) == (kernel, architecture) and entry.min_rows <= rows
    ]
    if not found:
        known = sorted({entry.architecture for entry in TILES if entry.kernel == kernel})
        raise ValueError(f"no tile of {kernel} for {architecture}: known are {', '.join(known)}")
    return found[-1]
