"""The bars a compiled kernel must clear, as a table: name, what is measured, the limit."""

from collections.abc import Callable
from dataclasses import dataclass

from .cases import MATRIX_KERNELS, Case
from .inspection import Report

# Bytes of shared memory a block may take; registers and threads of a multiprocessor.
SHARED = {"sm_80": 166912, "sm_89": 101376, "sm_90": 232448, "sm_100": 232448, "gfx942": 65536}
THREADS = {"sm_80": 2048, "sm_89": 1536, "sm_90": 2048, "sm_100": 2048, "gfx942": 2048}
MULTIPROCESSOR_SHARED = {**SHARED, "sm_80": 167936, "sm_90": 233472, "sm_100": 233472}
REGISTERS = {"gfx942": 512}  # of a lane, the accumulation registers with them
MATRIX = {"sm_80": "HMMA", "sm_89": "HMMA", "sm_90": "HGMMA", "sm_100": "UTC", "gfx942": "v_mfma"}
# On global memory; ATOMS and REDUX are how sm_100 reserves its tensor memory.
ATOMICS = ("ATOM.", "ATOMG", "RED.", "REDG", "global_atomic", "flat_atomic", "buffer_atomic")
STATISTICS = 11.0  # lane instructions an element of H, for all four statistics
SHUFFLES = 32


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
        architecture, threads = self.case.tile.architecture, self._threads
        per_thread = -(-self.report.registers // 8) * 8
        file = 512 * 256 if architecture == "gfx942" else 65536
        limits = [THREADS[architecture] // threads, file // max(1, per_thread * threads)]
        if self.report.shared:
            limits.append(MULTIPROCESSOR_SHARED[architecture] // self.report.shared)
        return min(limits)

    @property
    def _threads(self) -> int:
        return self.case.tile.warps * self.case.target.warp_size


def _statistics_matter(case: Case) -> bool:
    """The two bars on instructions are for the 128 × 128 tile of sm_90, rows unmasked."""
    tile = case.tile
    large = (tile.rows, tile.neurons) == (128, 128)
    return tile.kernel == "dual_gemm" and tile.architecture == "sm_90" and large and not case.masked


BARS: dict[str, Callable[[Case, Report, float | None], bool]] = {
    "no stack": lambda case, report, added: report.stack == 0,
    "no spills": lambda case, report, added: report.spills == 0,
    "registers": lambda case, report, added: (
        report.registers <= REGISTERS.get(case.tile.architecture, 255)
    ),
    "shared memory": lambda case, report, added: report.shared <= SHARED[case.tile.architecture],
    "matrix instructions": lambda case, report, added: (
        case.tile.kernel not in MATRIX_KERNELS or report.count(MATRIX[case.tile.architecture]) > 0
    ),
    "no atomics": lambda case, report, added: report.count(*ATOMICS) == 0,
    "statistics per element": lambda case, report, added: (
        added is None or not _statistics_matter(case) or added <= STATISTICS
    ),
    "shuffles": lambda case, report, added: (
        not _statistics_matter(case) or report.count("SHFL") <= SHUFFLES
    ),
}


def judge(case: Case, report: Report, plain: Report | None) -> Row:
    """The row of a case; plain: the same tile without statistics, where there is one."""
    added = None if plain is None else (report.total - plain.total) / case.elements
    missed = tuple(name for name, met in BARS.items() if not met(case, report, added))
    return Row(case, report, added, missed)
