"""The bars a compiled kernel must clear, as a table: name, what is measured, the limit."""

from collections.abc import Callable
from dataclasses import dataclass

from ..triton_backend.placing import PIECE_ROWS, SHORT_PIECE_ROWS, cut
from ..triton_backend.tuning import Product
from .cases import MATRIX_KERNELS, TUNED, WALKING, Case
from .inspection import Report

# Bytes of shared memory a block may take, and threads of a multiprocessor.
SHARED = {
    "sm_70": 98304, "sm_75": 65536, "sm_80": 166912, "sm_89": 101376, "sm_90": 232448,
    "sm_100": 232448, "sm_120": 101376, "gfx90a": 65536, "gfx942": 65536, "gfx950": 163840,
}  # fmt: skip
THREADS = {"sm_75": 1024, "sm_89": 1536, "sm_120": 1536}  # 2048 elsewhere
MULTIPROCESSOR_SHARED = {**SHARED, "sm_80": 167936, "sm_90": 233472, "sm_100": 233472}
AMD_REGISTERS = 512  # of a lane, the accumulation registers with them
MATRIX = {"sm_75": "HMMA", "sm_80": "HMMA", "sm_89": "HMMA", "sm_90": "HGMMA", "sm_100": "UTC",
          "sm_120": "HMMA", "gfx90a": "v_mfma", "gfx942": "v_mfma", "gfx950": "v_mfma"}  # fmt: skip
# On global memory; ATOMS and REDUX are how sm_100 reserves its tensor memory.
ATOMICS = ("ATOM.", "ATOMG", "RED.", "REDG", "global_atomic", "flat_atomic", "buffer_atomic")
# Lane instructions an element of H, for all four statistics, on sm_90.
WALKED, EPILOGUE, DUAL = 10.5, 9.0, 11.0
SHUFFLES = 32
EXCHANGES = ("SHFL", "BAR", "DADD", "DMUL", "DFMA", "DSETP")
PART_BYTES = 20
PART_SHARE, PART_SHARES = 0.02, {"normalised": 0.08}  # of H's bytes in half precision


@dataclass(frozen=True)
class Row:
    """One line of the table: a case, what it compiled to, and what statistics added to it."""

    case: Case
    report: Report
    added: float | None
    missed: tuple[str, ...]

    @property
    def occupancy(self) -> int:
        """Blocks that fit on one multiprocessor at once."""
        architecture, threads = self.case.architecture, self._threads
        per_thread = -(-self.report.registers // 8) * 8
        file = 512 * 256 if architecture.startswith("gfx") else 65536
        limits = [THREADS.get(architecture, 2048) // threads, file // max(1, per_thread * threads)]
        if self.report.shared:
            limits.append(MULTIPROCESSOR_SHARED[architecture] // self.report.shared)
        return min(limits)

    @property
    def _threads(self) -> int:
        return self.case.tile.warps * self.case.target.warp_size


def _bar_on_statistics(case: Case) -> float:
    """Of sm_90 in half precision, rows unmasked; the tile of a product 128 × 128."""
    tile = case.tile
    large = (tile.rows, tile.neurons) == (128, 128)
    if case.architecture != "sm_90" or case.masked or case.dtype == "fp32":
        return float("inf")
    if tile.kernel == "pointwise":
        return WALKED
    if tile.kernel == "gated_tma" and large:
        return EPILOGUE
    return DUAL if tile.kernel == "dual_gemm" and large else float("inf")


def _share_of_parts(case: Case) -> float:
    """Bytes of partial results over those of H, where a program walks."""
    if isinstance(case.tile, Product) and not case.tile.kernel.startswith("gated"):
        return 0.0
    least = SHORT_PIECE_ROWS if case.tile.kernel == "normalised" else PIECE_ROWS
    widest = 0.0
    for segment in range(least, 20 * least, 8):
        pieces = cut(segment, segment, case.tile.rows, piece_rows=least).pieces
        widest = max(widest, PART_BYTES * pieces / (2 * segment) if pieces > 1 else 0.0)
    return widest


BARS: dict[str, Callable[[Case, Report, float | None], bool]] = {
    "no stack": lambda case, report, added: report.stack == 0 or _safe(case),
    "no spills": lambda case, report, added: report.spills == 0 or _safe(case),
    "registers": lambda case, report, added: (
        report.registers <= (AMD_REGISTERS if case.architecture.startswith("gfx") else 255)
    ),
    "shared memory": lambda case, report, added: report.shared <= SHARED[case.architecture],
    "matrix instructions": lambda case, report, added: (
        case.tile.kernel not in MATRIX_KERNELS
        or case.architecture not in TUNED
        or report.count(MATRIX[case.architecture]) > 0
    ),
    "no atomics": lambda case, report, added: report.count(*ATOMICS) == 0,
    "statistics per element": lambda case, report, added: (
        added is None or added <= _bar_on_statistics(case)
    ),
    "shuffles": lambda case, report, added: (
        _bar_on_statistics(case) != DUAL or report.count("SHFL") <= SHUFFLES
    ),
    "no exchange in the walk": lambda case, report, added: (
        case.tile.kernel not in WALKING or report.in_loop(*EXCHANGES) == 0
    ),
    "bytes of parts": lambda case, report, added: (
        _share_of_parts(case) <= PART_SHARES.get(case.tile.kernel, PART_SHARE)
    ),
}


def _safe(case: Case) -> bool:
    """For an architecture that no tile was tuned for: it has to run, not to be fast."""
    return case.architecture not in TUNED


def judge(case: Case, report: Report, plain: Report | None) -> Row:
    """The row of a case; plain: the same tile without statistics, where there is one.

    What statistics add is counted in the loop where a program walks, and in the whole elsewhere.
    """
    added = None
    if plain is not None:
        walks = case.tile.kernel in (*WALKING, "gated_gemm", "gated_tma") and plain.loop
        more = report.in_loop() - plain.in_loop() if walks else report.total - plain.total
        added = more / case.elements
    missed = tuple(name for name, met in BARS.items() if not met(case, report, added))
    return Row(case, report, added, missed)
