"""Checks of arguments, and the rows-to-segments arithmetic that all backends share."""

import torch
from torch import Tensor

Size = int | torch.SymInt  # what a compiler traces instead of a number
NO_FLOAT64 = ("mps",)  # devices that cannot hold it
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_tensor(name: str, tensor: Tensor, ndim: int | None = None) -> None:
    """Raises TypeError or ValueError unless `tensor` is floating point with enough axes."""
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name}: dtype {tensor.dtype}; choose from {', '.join(map(str, DTYPES))}")
    if tensor.ndim < 2 if ndim is None else tensor.ndim != ndim:
        expected = "[..., rows, features]" if ndim is None else f"{ndim} axes"
        raise ValueError(f"{name}: shape {tuple(tensor.shape)}; expected {expected}")


def inner_neurons(name: str, width: Size, gated: bool) -> Size:
    """Neurons behind a projection of `width` features: half of them where gated."""
    if gated and width % 2:
        raise ValueError(f"{name}: {width} features; a gated activation needs an even number")
    return width // 2 if gated else width


def segment_size(rows: Size, segment_rows: Size | None) -> Size:
    """Rows of one segment; all of them where `segment_rows` is None."""
    if segment_rows is None:
        return rows
    if segment_rows < 1 or rows % segment_rows:  # pyright: ignore[reportOperatorIssue]
        raise ValueError(f"segment_rows={segment_rows}: must be a positive divisor of {rows} rows")
    return segment_rows


def segments_of(rows: Size, segment_rows: Size) -> Size:
    """How many segments there are; no rows at all still make one (empty) segment."""
    return rows // segment_rows if segment_rows else 1


def widest(device: torch.device) -> torch.dtype:
    """What the truth is computed in on a device."""
    return torch.float32 if device.type in NO_FLOAT64 else torch.float64


def statistics_device(device: torch.device) -> torch.device:
    """Where the statistics of a device's activations lie: there, or on the CPU without float64."""
    return torch.device("cpu") if device.type in NO_FLOAT64 else device


def counts(rows: Size, segment_rows: Size, device: torch.device) -> Tensor:
    """Rows of every segment, int64 [segments]."""
    segments = segments_of(rows, segment_rows)
    size: int = segment_rows  # pyright: ignore[reportAssignmentType]
    return torch.full((segments,), size, dtype=torch.int64, device=statistics_device(device))
