"""Backend `triton`: what launches the kernels. Shapes choose the tile; nothing is autotuned."""

# pyright: reportArgumentType=false, reportCallIssue=false
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import linear
from triton import cdiv, knobs
from triton.tools.tensor_descriptor import TensorDescriptor

from ..activations import find
from ..moments import Moments
from ..shapes import counts, inner_neurons, segments_of
from .columns import columns
from .dual_gemm import dual_gemm
from .dual_tma import dual_tma
from .merging import fold_parts, merge_moments
from .pointwise import pointwise
from .tuning import Tile, tile

FOLD_NEURONS = 128
HALF = (torch.float16, torch.bfloat16)


@cache
def architecture(device: torch.device) -> str:
    """The tuning table's name of the device."""
    if knobs.runtime.interpret:
        return "interpreter"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return properties.gcnArchName.split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


class _Parts:
    """Statistics of every tile of rows, and the grid that produces them.

    A tile never straddles segments. Without statistics all rows are one segment.
    """

    def __init__(self, like: Tensor, neurons: int, segment_rows: int | None, tile: Tile):
        self.counted = segment_rows is not None
        self.rows, self.neurons, self.tile = len(like), neurons, tile
        self.segment_rows = self.rows if segment_rows is None else segment_rows
        self.segments = segments_of(self.rows, self.segment_rows)
        self.pieces = cdiv(self.segment_rows, tile.rows)
        self.count = self.segments * self.pieces if neurons else 0
        self.masked = self.segment_rows % tile.rows != 0
        shape = (self.count if self.counted else 0, neurons)
        dtypes = (torch.float64, torch.float32, torch.float32, torch.int32)
        self.buffers = tuple(like.new_empty(shape, dtype=dtype) for dtype in dtypes)

    def moments(self) -> Moments | None:
        return self.fold() if self.counted else None

    def fold(self) -> Moments:
        """All parts joined, in float64."""
        device = self.buffers[0].device
        out = Moments.empty(self.segments, self.neurons, device)
        if self.count:
            fold_parts[self.segments, cdiv(self.neurons, FOLD_NEURONS)](
                *self.buffers, out.mean, out.m2, out.max_abs, out.nonzero,
                self.segment_rows, self.pieces, self.neurons,
                ROWS=self.tile.rows, NEURONS=FOLD_NEURONS, num_warps=4,
            )  # fmt: skip
        count = counts(self.rows, self.segment_rows, device)
        return Moments(count, out.mean, out.m2, out.max_abs, out.nonzero)


def _lines(tensor: Tensor) -> Tensor:
    """The tensor with its rows contiguous, copied only where they are not."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def geglu(
    projected: Tensor, activation: str, gated: bool, segment_rows: int | None
) -> tuple[Tensor, Moments | None]:
    find(activation)
    projected = _lines(projected)
    rows, width = projected.shape
    neurons = inner_neurons("projected", width, gated)
    hidden = projected.new_empty(rows, neurons)
    chosen = tile("pointwise", architecture(projected.device), rows)
    parts = _Parts(projected, neurons, segment_rows, chosen)
    if parts.count:
        pointwise[parts.count, cdiv(neurons, chosen.neurons)](
            projected, hidden, *parts.buffers,
            projected.stride(0), parts.segment_rows, parts.pieces, neurons,
            ACTIVATION=activation, GATED=gated, MOMENTS=parts.counted, MASKED=parts.masked,
            ROWS=chosen.rows, NEURONS=chosen.neurons,
            num_warps=chosen.warps, num_stages=chosen.stages,
        )  # fmt: skip
    return hidden, parts.moments()


def column_moments(activation: Tensor, row_weight: Tensor | None, segment_rows: int) -> Moments:
    activation = _lines(activation)
    rows, neurons = activation.shape
    chosen = tile("columns", architecture(activation.device), rows)
    parts = _Parts(activation, neurons, segment_rows, chosen)
    if parts.count:
        columns[parts.count, cdiv(neurons, chosen.neurons)](
            activation, activation if row_weight is None else row_weight.contiguous(),
            *parts.buffers,
            activation.stride(0), parts.segment_rows, parts.pieces, neurons,
            WEIGHTED=row_weight is not None, MASKED=parts.masked,
            ROWS=chosen.rows, NEURONS=chosen.neurons,
            num_warps=chosen.warps, num_stages=chosen.stages,
        )  # fmt: skip
    return parts.fold()


def geglu_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    gated: bool,
    exact: bool,
    segment_rows: int | None,
) -> tuple[Tensor, Moments | None]:
    """The dual GEMM in half precision; float32 takes the vendor's GEMM and the pointwise kernel."""
    if x.dtype not in HALF:
        return geglu(linear(x, weight, bias), activation, gated, segment_rows)
    return fused(x, weight, bias, activation, gated, exact, segment_rows)


def fused(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    gated: bool,
    exact: bool,
    segment_rows: int | None,
    tma: bool | None = None,
) -> tuple[Tensor, Moments | None]:
    """The dual GEMM; tma=None takes the persistent kernel where it can run."""
    find(activation)
    x, weight = _lines(x), _lines(weight)
    (rows, channels), neurons = x.shape, inner_neurons("weight", len(weight), gated)
    arch = architecture(x.device)
    tma = _tma_runs(arch, x, weight) if tma is None else tma
    chosen = tile("dual_tma" if tma else "dual_gemm", arch, rows)
    parts = _Parts(x, neurons, segment_rows, chosen)
    hidden = x.new_empty(rows, neurons)
    wide = cdiv(neurons, chosen.neurons)
    settings = dict(
        ACTIVATION=activation, GATED=gated, BIAS=bias is not None, EXACT=exact,
        MOMENTS=parts.counted, MASKED=parts.masked,
        ROWS=chosen.rows, NEURONS=chosen.neurons, CHANNELS=chosen.channels,
        num_warps=chosen.warps, num_stages=chosen.stages,
    )  # fmt: skip
    buffers = (weight if bias is None else bias.contiguous(), hidden, *parts.buffers)
    if parts.count and tma:
        descriptors = (
            TensorDescriptor.from_tensor(x, [chosen.rows, chosen.channels]),
            TensorDescriptor.from_tensor(weight, [chosen.neurons, chosen.channels]),
        )
        shapes = (parts.segment_rows, parts.pieces, neurons, channels, parts.count)
        dual_tma[(min(parts.count * wide, _processors(x.device)),)](
            *descriptors, *buffers, *shapes, **settings
        )
    elif parts.count:
        dual_gemm[wide, parts.count](
            x, weight, *buffers,
            x.stride(0), weight.stride(0), parts.segment_rows, parts.pieces, neurons, channels,
            EVEN_CHANNELS=channels % chosen.channels == 0, **settings,
        )  # fmt: skip
    return hidden, parts.moments()


def _tma_runs(arch: str, x: Tensor, weight: Tensor) -> bool:
    """Tensor memory access wants sm_90 or later and 16-byte aligned rows."""
    if not arch.startswith(("sm_90", "sm_100", "sm_103")):
        return False
    return all(
        tensor.data_ptr() % 16 == 0 and tensor.stride(0) * tensor.element_size() % 16 == 0
        for tensor in (x, weight)
    )


@cache
def _processors(device: torch.device) -> int:
    if device.type == "cpu":
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count


def merge(a: Moments, b: Moments) -> Moments:
    segments, neurons = a.mean.shape
    out = Moments.empty(segments, neurons, a.mean.device)
    sides = [
        getattr(side, name).contiguous()
        for side in (a, b)
        for name in ("count", "mean", "m2", "max_abs", "nonzero")
    ]
    if segments and neurons:
        merge_moments[segments, cdiv(neurons, FOLD_NEURONS)](
            *sides, out.mean, out.m2, out.max_abs, out.nonzero, neurons,
            NEURONS=FOLD_NEURONS, num_warps=4,
        )  # fmt: skip
    return Moments(a.count + b.count, out.mean, out.m2, out.max_abs, out.nonzero)
