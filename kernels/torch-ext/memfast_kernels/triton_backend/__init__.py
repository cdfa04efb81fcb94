"""Backend `triton`: what launches the kernels. Shapes choose the tile; nothing is autotuned."""

# pyright: reportArgumentType=false, reportCallIssue=false
from torch import Tensor
from torch.nn.functional import linear
from triton import cdiv, next_power_of_2

from ..activations import find
from ..moments import Moments
from ..shapes import inner_neurons
from .columns import columns
from .merging import merge_moments
from .normalised import normalised
from .placing import PIECE_ROWS, SHORT_PIECE_ROWS, architecture, buffers, cut, on_device, unfilled
from .pointwise import pointwise
from .products import HALF, fold, fused, interleave
from .tuning import FUSED_CHANNELS, walk

__all__ = ["column_moments", "fuses", "geglu", "geglu_linear", "interleave", "merge"]

FOLD_NEURONS = 128
WIDEST_ROW = 2**20  # elements from one row to the next: offsets within a piece are 32 bits wide


def _lines(tensor: Tensor) -> Tensor:
    """The tensor with its rows contiguous, copied only where they are not."""
    apart, step = tensor.stride()
    return tensor if step == 1 and apart < WIDEST_ROW else tensor.contiguous()


def geglu(
    projected: Tensor, activation: str, gated: bool, segment_rows: int | None
) -> tuple[Tensor, Moments | None]:
    find(activation)
    projected = _lines(projected)
    rows, width = projected.shape
    neurons = inner_neurons("projected", width, gated)
    hidden = projected.new_empty(rows, neurons)
    chosen = walk("pointwise", architecture(projected.device)).of(projected.element_size())
    pieces = cut(rows, segment_rows, chosen.rows)
    out = None if segment_rows is None else unfilled(rows, pieces, neurons, projected.device)
    if rows and neurons:
        parts = buffers(pieces, out, projected)
        with on_device(projected):
            pointwise[(pieces.parts * cdiv(neurons, chosen.neurons),)](
                projected, hidden, *parts,
                projected.stride(0), pieces.segment_rows, pieces.pieces, pieces.chunks, neurons,
                ACTIVATION=activation, GATED=gated,
                MOMENTS=out is not None, MASKED=pieces.masked,
                ROWS=chosen.rows, NEURONS=chosen.neurons,
                num_warps=chosen.warps,
            )  # fmt: skip
            fold(pieces, chosen.rows, parts, out)
    return hidden, out


def column_moments(
    activation: Tensor, row_weight: Tensor | None, row_normalised: bool, segment_rows: int
) -> Moments:
    activation = _lines(activation)
    rows, neurons = activation.shape
    kernel = "normalised" if row_normalised else "columns"
    chosen = walk(kernel, architecture(activation.device)).of(activation.element_size())
    least = SHORT_PIECE_ROWS if row_normalised else PIECE_ROWS
    pieces = cut(rows, segment_rows, chosen.rows, piece_rows=least)
    out = unfilled(rows, pieces, neurons, activation.device)
    if not rows or not neurons:
        return out
    parts = buffers(pieces, out, activation)
    sizes = (activation.stride(0), pieces.segment_rows, pieces.pieces, pieces.chunks, neurons)
    with on_device(activation):
        if row_normalised:
            width = min(chosen.neurons, max(16, next_power_of_2(neurons)))
            normalised[(pieces.parts * cdiv(neurons, width),)](
                activation, *parts, *sizes,
                WHOLE=neurons <= width, ROWS=chosen.rows, NEURONS=width,
                num_warps=max(1, chosen.warps * width // chosen.neurons),
            )  # fmt: skip
        else:
            columns[(pieces.parts * cdiv(neurons, chosen.neurons),)](
                activation, activation if row_weight is None else row_weight.contiguous(),
                *parts, *sizes,
                WEIGHTED=row_weight is not None, MASKED=pieces.masked,
                ROWS=chosen.rows, NEURONS=chosen.neurons,
                num_warps=chosen.warps,
            )  # fmt: skip
        fold(pieces, chosen.rows, parts, out)
    return out


def geglu_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    gated: bool,
    exact: bool,
    segment_rows: int | None,
    interleaved: Tensor | None = None,
) -> tuple[Tensor, Moments | None]:
    """One matrix product in half precision; float32 takes the vendor's and the pointwise kernel."""
    if x.dtype not in HALF:
        return geglu(linear(x, weight, bias), activation, gated, segment_rows)
    x, weight = _lines(x), _lines(weight)
    return fused(x, weight, bias, activation, gated, exact, segment_rows, interleaved)


def fuses(x: Tensor, weight: Tensor) -> bool:
    """Short products: their projection costs more to store than the vendor's GEMM saves."""
    narrow = weight.shape[1] <= FUSED_CHANNELS.get(architecture(x.device), 0)
    return narrow and x.dtype in HALF


def merge(a: Moments, b: Moments) -> Moments:
    segments, neurons = a.mean.shape
    out = Moments.empty(segments, neurons, a.mean.device)
    sides = [
        getattr(side, name).contiguous()
        for side in (a, b)
        for name in ("count", "mean", "m2", "max_abs", "nonzero")
    ]
    if segments and neurons:
        with on_device(a.mean):
            merge_moments[segments, cdiv(neurons, FOLD_NEURONS)](
                *sides, out.mean, out.m2, out.max_abs, out.nonzero, neurons,
                NEURONS=FOLD_NEURONS, num_warps=4,
            )  # fmt: skip
    return Moments(a.count + b.count, out.mean, out.m2, out.max_abs, out.nonzero)
