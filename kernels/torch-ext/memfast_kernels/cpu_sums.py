"""Running sums over the rows of blocks that lie in cache: one pass in C where it was compiled at
install, a few passes of torch elsewhere and for other dtypes than float32.
"""

import ctypes
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor


def _compiled() -> Callable[..., None] | None:
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_columns{suffix}")
        if path.is_file():
            try:
                add_block = ctypes.CDLL(str(path)).add_block
            except OSError:  # built for another machine, or torch brings no OpenMP
                return None
            integer, address = ctypes.c_int64, ctypes.c_void_p
            add_block.argtypes = [address, *[integer] * 3, *[address] * 4]
            add_block.restype = None
            return add_block
    return None


add_block = _compiled()


class Sums:
    """Of each column of each segment, [segments, neurons]: sum and sum of squares (float64),
    largest magnitude (float32), non-zeros (int64)."""

    def __init__(self, segments: int, neurons: int):
        shape = (segments, neurons)
        self.total = torch.zeros(shape, dtype=torch.float64)
        self.squares = torch.zeros(shape, dtype=torch.float64)
        self.peak = torch.zeros(shape, dtype=torch.float32)
        self.nonzero = torch.zeros(shape, dtype=torch.int64)

    def add(self, values: Tensor, first: int) -> None:
        """Adds values [segments, rows, neurons] to as many segments from the `first` on."""
        parts = (self.total, self.squares, self.peak, self.nonzero)
        if add_block is not None and values.dtype is torch.float32:
            values = values.contiguous()
            offset = first * values.shape[2]
            places = (part.data_ptr() + offset * part.element_size() for part in parts)
            add_block(values.data_ptr(), *values.shape, *places)
            return
        total, squares, peak, nonzero = (part[first : first + len(values)] for part in parts)
        exact = values.double()
        total += exact.sum(1)
        squares += exact.square().sum(1)
        torch.maximum(peak, values.abs().amax(1).float(), out=peak)
        nonzero += values.ne(0).sum(1)
