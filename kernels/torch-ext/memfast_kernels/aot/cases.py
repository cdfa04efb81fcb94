"""What is compiled: every kernel × tile of the tuning table, with and without statistics."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ..triton_backend.columns import columns
from ..triton_backend.dual_gemm import dual_gemm
from ..triton_backend.dual_tma import dual_tma
from ..triton_backend.merging import fold_parts, merge_moments
from ..triton_backend.pointwise import pointwise
from ..triton_backend.tuning import TILES, Tile

KERNELS = {
    "pointwise": pointwise,
    "columns": columns,
    "dual_gemm": dual_gemm,
    "dual_tma": dual_tma,
    "fold_parts": fold_parts,
    "merge_moments": merge_moments,
}
ARCHITECTURES = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_89": GPUTarget("cuda", 89, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
MATRIX_KERNELS = ("dual_gemm", "dual_tma")
FOLD = dict(rows=128, neurons=128, channels=0, warps=4, stages=1)
SETTINGS = dict(ACTIVATION="gelu", GATED=True, BIAS=True, EXACT=True, WEIGHTED=True)
FLOAT32 = ("p_m2", "p_max_abs")


@dataclass(frozen=True)
class Case:
    """One compilation: a tile, with statistics or without, rows a multiple of the tile or not."""

    tile: Tile
    moments: bool
    masked: bool

    @property
    def source(self) -> ASTSource:
        kernel = KERNELS[self.tile.kernel]
        names: list[str] = kernel.arg_names
        constants = {name: value for name, value in self._constants().items() if name in names}
        types = {name: self._type(name) for name in names if name not in constants}
        signature = {name: types.get(name, "constexpr") for name in names}
        aligned = [
            index
            for index, name in enumerate(names)
            if types.get(name, "").startswith("*") or name in ("neurons", "channels")
            or name.endswith("_stride")
        ]  # fmt: skip
        return ASTSource(
            fn=kernel,
            signature=signature,
            constexprs={(names.index(name),): value for name, value in constants.items()},
            attrs={(index,): [["tt.divisibility", 16]] for index in aligned},
        )

    @property
    def target(self) -> GPUTarget:
        return ARCHITECTURES[self.tile.architecture]

    @property
    def options(self) -> dict[str, Any]:
        return dict(num_warps=self.tile.warps, num_stages=self.tile.stages)

    @property
    def elements(self) -> float:
        """Elements of H that one lane holds."""
        lanes = self.tile.warps * self.target.warp_size
        return self.tile.rows * self.tile.neurons / lanes

    def _constants(self) -> dict[str, Any]:
        return dict(
            SETTINGS,
            MOMENTS=self.moments,
            MASKED=self.masked,
            EVEN_CHANNELS=not self.masked,
            ROWS=self.tile.rows,
            NEURONS=self.tile.neurons,
            CHANNELS=self.tile.channels,
        )

    def _type(self, name: str) -> str:
        """The Triton type of an argument, from its name."""
        if name == "d_x":
            return f"tensordesc<bf16[{self.tile.rows}, {self.tile.channels}]>"
        if name == "d_weight":
            return f"tensordesc<bf16[{self.tile.neurons}, {self.tile.channels}]>"
        if not name.startswith("p_"):
            return "i32"
        if self.tile.kernel == "merge_moments" or not name.startswith("p_part_"):
            wide = self.tile.kernel in ("merge_moments", "fold_parts")
        else:
            wide = False
        for role, (narrow, broad) in {
            "count": ("i64", "i64"),
            "mean": ("fp64", "fp64"),
            "m2": ("fp32", "fp64"),
            "max_abs": ("fp32", "fp32"),
            "nonzero": ("i32", "i64"),
        }.items():
            if role in name:
                return "*" + (broad if wide else narrow)
        return "*fp32" if self.tile.kernel == "columns" and name == "p_weight" else "*bf16"


def cases() -> Iterator[Case]:
    """All of them, those without statistics first: they are what the others are compared with."""
    for tile in TILES:
        if tile.architecture not in ARCHITECTURES:
            continue
        if tile.kernel != "columns":
            yield Case(tile, moments=False, masked=False)
        yield Case(tile, moments=True, masked=False)
        yield Case(tile, moments=True, masked=True)
    for kernel in ("fold_parts", "merge_moments"):
        for architecture in ARCHITECTURES:
            yield Case(Tile(kernel, architecture, 0, **FOLD), moments=True, masked=True)
