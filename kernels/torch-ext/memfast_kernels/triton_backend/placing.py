"""Where programs run and which rows each walks: kept from call to call, a function of shapes."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from triton import cdiv, knobs

from ..moments import Moments
from ..shapes import segments_of

PIECE_ROWS = 512  # the fewest rows behind a partial result: 20 bytes to 1024 of H in half precision
SHORT_PIECE_ROWS = 128  # where a program takes whole rows, and few programs would be left
NOWHERE = nullcontext()


@cache
def architecture(device: torch.device) -> str:
    """The tuning tables' name of the device."""
    if knobs.runtime.interpret:
        return "interpreter"
    if device.type == "xpu":
        return "xpu_device"  # there is one table for all of them
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return properties.gcnArchName.split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


def on_device(tensor: Tensor) -> AbstractContextManager:
    """Makes the tensor's device the current one, which is where Triton launches."""
    device = tensor.device
    if device.type == "cpu":
        return NOWHERE
    module = torch.cuda if device.type == "cuda" else torch.xpu
    return NOWHERE if module.current_device() == device.index else module.device(device)


class Pieces(NamedTuple):
    """How the rows of every segment are cut: pieces of `chunks` chunks each."""

    segment_rows: int
    segments: int
    pieces: int
    chunks: int
    masked: bool  # whether the last chunk of a segment is not full

    @property
    def parts(self) -> int:
        return self.segments * self.pieces


@lru_cache(maxsize=1024)
def cut(
    rows: int,
    segment_rows: int | None,
    chunk_rows: int,
    walks: bool = True,
    piece_rows: int = PIECE_ROWS,
) -> Pieces:
    """Without statistics (segment_rows is None), or a walk, every chunk is a piece of its own."""
    size = rows if segment_rows is None else segment_rows
    walks = walks and segment_rows is not None
    chunks = max(1, cdiv(cdiv(size, max(1, size // piece_rows)), chunk_rows)) if walks else 1
    whole = chunks * chunk_rows
    return Pieces(
        segment_rows=size,
        segments=int(segments_of(rows, size)),
        pieces=cdiv(size, whole),
        chunks=chunks,
        masked=size % whole != 0,
    )


def buffers(pieces: Pieces, out: Moments | None, like: Tensor) -> tuple[Tensor, ...]:
    """Where programs leave their statistics: in `out` itself where a segment is one piece."""
    if out is None:
        return (like,) * 4  # never touched
    if pieces.pieces == 1:
        return out.mean, out.m2, out.max_abs, out.nonzero
    shape = (pieces.parts, out.mean.shape[1])
    dtypes = (torch.float64, torch.float32, torch.float32, torch.int32)
    return tuple(like.new_empty(shape, dtype=dtype) for dtype in dtypes)


def unfilled(rows: int, pieces: Pieces, neurons: int, device: torch.device) -> Moments:
    """The result of a call, its statistics still to be written."""
    if not rows:
        return Moments.empty(pieces.segments, neurons, device)
    shape = (pieces.segments, neurons)
    return Moments(
        count=_counts(pieces.segments, pieces.segment_rows, device),
        mean=torch.empty(shape, dtype=torch.float64, device=device),
        m2=torch.empty(shape, dtype=torch.float64, device=device),
        max_abs=torch.empty(shape, dtype=torch.float32, device=device),
        nonzero=torch.empty(shape, dtype=torch.int64, device=device),
    )


def _counts(segments: int, size: int, device: torch.device) -> Tensor:
    """Rows of every segment, int64 [segments]: nobody writes there, so calls share them."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return _full(segments, size, device)  # it is the graph's
    return _shared(segments, size, device)


def _full(segments: int, size: int, device: torch.device) -> Tensor:
    return torch.full((segments,), size, dtype=torch.int64, device=device)


_shared = lru_cache(maxsize=256)(_full)
