"""Running sums over the rows of blocks that lie in cache: one pass in C where it was compiled at
install, a few passes of torch elsewhere and for other dtypes than float32.
"""

import ctypes
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor


def _library() -> ctypes.CDLL | None:
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_columns{suffix}")
        if path.is_file():
            try:
                return ctypes.CDLL(str(path))
            except OSError:  # built for another machine, or torch brings no OpenMP
                return None
    return None


def _function(name: str, result: type | None, *arguments: type) -> Callable | None:
    if compiled is None:
        return None
    function = getattr(compiled, name)
    function.restype, function.argtypes = result, arguments
    return function


compiled = _library()
_integer, _address = ctypes.c_int64, ctypes.c_void_p
_add = _function("add_block", None, _address, *[_integer] * 3, *[_address] * 4)
_finish = _function("finish", ctypes.c_int32, *[_integer] * 2, *[_address] * 3)


class Sums:
    """Of each column of each segment, [segments, neurons]: sum and sum of squares (float64),
    largest magnitude, non-zeros (int64). dtype: that of the rows that are added."""

    def __init__(self, segments: int, neurons: int, dtype: torch.dtype):
        shape = (segments, neurons)
        self.total, self.squares = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        self.peak = torch.zeros(shape, dtype=dtype)
        self.nonzero = torch.zeros(shape, dtype=torch.int64)
        self.in_c = compiled is not None and dtype is torch.float32

    def add(self, values: Tensor, first: int) -> None:
        """Adds values [segments, rows, neurons] to as many segments from the `first` on."""
        segments, rows, neurons = values.shape
        parts = (self.total, self.squares, self.peak, self.nonzero)
        if self.in_c:
            values = values.contiguous()
            places = (p.data_ptr() + first * neurons * p.element_size() for p in parts)
            _add(values.data_ptr(), segments, rows, neurons, *places)  # type: ignore[misc]
            return
        total, squares, peak, nonzero = (part[first : first + segments] for part in parts)
        total += values.sum(1)
        squares += values.square().sum(1)
        torch.maximum(peak, values.abs().amax(1), out=peak)
        nonzero += values.ne(0).sum(1)

    def finish(self, rows: int) -> tuple[Tensor, Tensor, bool]:
        """Mean and m2 of all `rows` rows of a segment, in place of the sums, and whether a column
        may need another look: it is not finite, its squares underflow, or its mean is so large
        that m2 has lost bits."""
        mean, m2 = self.total, self.squares
        if self.in_c:
            places = (part.data_ptr() for part in (mean, m2, self.peak))
            return mean, m2, bool(_finish(rows, mean.numel(), *places))  # type: ignore[misc]
        mean /= rows
        m2 -= rows * mean.square()
        return mean, m2, True
