"""Running sums over the rows of blocks that lie in cache: one pass in C where it was compiled at
install, a few passes of torch elsewhere and for other dtypes than float32.
"""

import ctypes
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

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
            size, address = ctypes.c_int64, ctypes.c_void_p
            pointers = [address] * 4
            add_block.argtypes = [address, address, size, address, address, *[size] * 5, *pointers]
            add_block.restype = None
            return add_block
    return None


add_block = _compiled()


def at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def one_pass(values: Tensor) -> bool:
    """Whether values of this dtype are counted by the one pass in C."""
    return add_block is not None and values.dtype is torch.float32


class Totals(NamedTuple):
    """Of each column of each segment, [segments, neurons]."""

    sum: Tensor  # float64
    squares: Tensor  # float64
    peak: Tensor  # float32, largest magnitude
    nonzero: Tensor  # int64


class Sums:
    """Totals of blocks of rows, added one after another.

    halved: the halves of a block's rows get sums of their own, one for each of two threads.
    """

    def __init__(self, segments: int, neurons: int, halved: bool = False):
        shape = (1 + halved, segments, neurons)
        dtypes = (torch.float64, torch.float64, torch.float32, torch.int64)
        self.parts = Totals(*(torch.zeros(shape, dtype=dtype) for dtype in dtypes))
        self.shape = shape

    def add(self, values: Tensor, first: int, weights: Tensor | None = None) -> None:
        """Adds values [segments, rows, neurons], each row times its weight if there are weights
        [segments · rows], to as many segments from the `first` on."""
        values = at_least_float32(values)
        if weights is not None:
            weights = weights.to(values.dtype).contiguous()
        if one_pass(values):
            values = values.contiguous()
            pointer = None if weights is None else weights.data_ptr()
            segments, rows, _ = values.shape
            self._add_compiled(values, segments, rows, first, weights=pointer)
            return
        if weights is not None:
            values = values * weights.view(*values.shape[:2], 1)
        total, squares, peak, nonzero = (
            part[0, first : first + len(values)] for part in self.parts
        )
        exact = values.double()
        total += exact.sum(1)
        squares += exact.square().sum(1)
        torch.maximum(peak, values.abs().amax(1).float(), out=peak)
        nonzero += values.ne(0).sum(1)

    def add_product(self, a: Tensor, b: Tensor, out: Tensor, segments: int, first: int) -> None:
        """Writes a · b [segments · rows, neurons] to `out` and adds it."""
        rows = len(out) // segments
        if one_pass(out) and b.is_contiguous() and out.is_contiguous() and a.stride(1) == 1:
            pointers = {"factors": b.data_ptr(), "products": out.data_ptr()}
            self._add_compiled(a, segments, rows, first, **pointers)
        else:
            torch.mul(a, b, out=out)
            self.add(out.view(segments, rows, -1), first)

    def _add_compiled(
        self,
        values: Tensor,
        segments: int,
        rows: int,
        first: int,
        weights: int | None = None,
        factors: int | None = None,
        products: int | None = None,
    ) -> None:
        assert add_block is not None
        total, squares, peak, nonzero = self.parts
        halves, all_segments, neurons = self.shape
        place = first * neurons
        add_block(
            values.data_ptr(),
            weights,
            values.stride(-2),
            factors,
            products,
            segments,
            rows,
            neurons,
            halves,
            all_segments * neurons,
            total.data_ptr() + 8 * place,
            squares.data_ptr() + 8 * place,
            peak.data_ptr() + 4 * place,
            nonzero.data_ptr() + 8 * place,
        )

    def totals(self) -> Totals:
        """What was added so far."""
        total, squares, peak, nonzero = self.parts
        if len(total) == 1:
            return Totals(*(part[0] for part in self.parts))
        return Totals(total.sum(0), squares.sum(0), peak.amax(0), nonzero.sum(0))
