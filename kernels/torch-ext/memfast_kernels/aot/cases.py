"""What is compiled: every kernel × tile of the tuning table, with and without statistics."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ..triton_backend.columns import columns
from ..triton_backend.dual_gemm import dual_gemm
from ..triton_backend.dual_tma import dual_tma
from ..triton_backend.gated_gemm import gated_gemm
from ..triton_backend.merging import fold_parts, merge_moments
from ..triton_backend.normalised import normalised
from ..triton_backend.pointwise import pointwise
from ..triton_backend.products import PAIR, SPREAD
from ..triton_backend.tuning import PRODUCTS, RELATIVES, Product, Walk, vendor, walk

KERNELS = {
    "pointwise": pointwise,
    "columns": columns,
    "normalised": normalised,
    "gated_gemm": gated_gemm,
    "gated_tma": gated_gemm,
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
    # without entries of their own:
    "sm_70": GPUTarget("cuda", 70, 32),
    "sm_75": GPUTarget("cuda", 75, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx90a": GPUTarget("hip", "gfx90a", 64),
    "gfx950": GPUTarget("hip", "gfx950", 64),
}
TUNED = ("sm_80", "sm_89", "sm_90", "sm_100", "gfx942")
MATRIX_KERNELS = ("gated_gemm", "gated_tma", "dual_gemm", "dual_tma")
WALKING = ("pointwise", "columns")
FOLD = dict(min_rows=0, rows=128, neurons=128, channels=0, warps=4, stages=1)
SETTINGS = dict(
    ACTIVATION="gelu", GATED=True, BIAS=True, EXACT=True, WEIGHTED=False, WHOLE=False,
    PAIR=PAIR, SPREAD=SPREAD,
)  # fmt: skip
FLOAT32 = ("p_m2", "p_max_abs")


@dataclass(frozen=True)
class Case:
    """One compilation: a tile, with statistics or without, rows a multiple of the tile or not.

    one: every size that may be 1 is 1, which Triton then compiles as a constant.
    """

    tile: Walk | Product
    architecture: str
    moments: bool
    masked: bool
    dtype: str = "bf16"
    one: bool = False

    @property
    def source(self) -> ASTSource:
        kernel = KERNELS[self.tile.kernel]
        names: list[str] = kernel.arg_names
        constants = {name: value for name, value in self._constants().items() if name in names}
        if self.one:
            ones = ("segment_rows", "pieces", "chunks", "neurons", "parts")
            constants |= {name: 1 for name in ones if name in names}
        types = {name: self._type(name) for name in names if name not in constants}
        signature = {name: types.get(name, "constexpr") for name in names}
        aligned = [
            index
            for index, name in enumerate(names)
            if name in types and (
                types[name].startswith("*") or name in ("neurons", "channels")
                or name.endswith("_stride")
            )
        ]  # fmt: skip
        return ASTSource(
            fn=kernel,
            signature=signature,
            constexprs={(names.index(name),): value for name, value in constants.items()},
            attrs={(index,): [["tt.divisibility", 16]] for index in aligned},
        )

    @property
    def target(self) -> GPUTarget:
        return ARCHITECTURES[self.architecture]

    @property
    def options(self) -> dict[str, Any]:
        stages = self.tile.stages if isinstance(self.tile, Product) else 1
        return dict(num_warps=self.tile.warps, num_stages=stages)

    @property
    def elements(self) -> float:
        """Elements of H that one lane holds."""
        lanes = self.tile.warps * self.target.warp_size
        return self.tile.rows * self.tile.neurons / lanes

    def _constants(self) -> dict[str, Any]:
        shape = (
            {}
            if isinstance(self.tile, Walk)
            else dict(CHANNELS=self.tile.channels, TMA=self.tile.kernel == "gated_tma")
        )
        return dict(
            SETTINGS,
            MOMENTS=self.moments,
            MASKED=self.masked,
            EVEN_CHANNELS=not self.masked,
            ROWS=self.tile.rows,
            NEURONS=self.tile.neurons,
            **shape,
        )

    def _type(self, name: str) -> str:
        """The Triton type of an argument, from its name."""
        tile = self.tile
        if isinstance(tile, Product) and tile.kernel.endswith("_tma"):
            features = tile.neurons * (2 if tile.kernel == "gated_tma" else 1)
            for argument, rows in (("x", tile.rows), ("weight", features)):
                if name in (argument, f"d_{argument}"):
                    return f"tensordesc<{self.dtype}[{rows}, {tile.channels}]>"
        if name in ("x", "weight"):
            return f"*{self.dtype}"
        if not name.startswith("p_"):
            return "i32"
        wide = tile.kernel in ("merge_moments", "fold_parts") and not name.startswith("p_part_")
        for role, (narrow, broad) in {
            "count": ("i64", "i64"),
            "mean": ("fp64", "fp64"),
            "m2": ("fp32", "fp64"),
            "max_abs": ("fp32", "fp32"),
            "nonzero": ("i32", "i64"),
        }.items():
            if role in name:
                return "*" + (broad if wide else narrow)
        return f"*{self.dtype}"


def _tiles() -> Iterator[tuple[Walk | Product, str]]:
    """Every tile with every architecture that takes it."""
    for architecture in ARCHITECTURES:
        for kernel in (*WALKING, "normalised"):
            yield walk(kernel, architecture), architecture
        for entry in PRODUCTS:
            tuned = RELATIVES.get(architecture, architecture)
            own = any((p.kernel, p.architecture) == (entry.kernel, tuned) for p in PRODUCTS)
            if entry.architecture == (tuned if own else vendor(architecture)):
                yield entry, architecture


def cases() -> Iterator[Case]:
    """All of them, those without statistics first: they are what the others are compared with."""
    for tile, architecture in _tiles():
        products = isinstance(tile, Product)
        # before sm_80 there is no bfloat16
        half = "fp16" if architecture in ("sm_70", "sm_75") else "bf16"
        for dtype in (half,) if products else (half, "fp32"):
            taken = tile if products else tile.of(4 if dtype == "fp32" else 2)
            if tile.kernel not in ("columns", "normalised"):
                yield Case(taken, architecture, False, False, dtype)
            yield Case(taken, architecture, True, False, dtype)
            yield Case(taken, architecture, True, True, dtype)
        if architecture in TUNED:
            yield Case(tile, architecture, True, True, half, one=True)
    for kernel in ("fold_parts", "merge_moments"):
        for architecture in ARCHITECTURES:
            yield Case(Product(kernel, architecture, **FOLD), architecture, True, True)
