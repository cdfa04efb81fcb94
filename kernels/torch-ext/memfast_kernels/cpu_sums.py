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

HALVES = 2  # of a block's rows, each with sums of its own: see columns.c


def _compiled() -> Callable[..., None] | None:
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_columns{suffix}")
        if path.is_file():
            try:
                add_block = ctypes.CDLL(str(path)).add_block
            except OSError:  # built for another machine, or torch brings no OpenMP
                return None
            size, address = ctypes.c_int64, ctypes.c_void_p
            add_block.argtypes = [address, size, address, address, *[size] * 4, *[address] * 4]
            add_block.restype = None
            return add_block
    return None


add_block = _compiled()


def at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Totals(NamedTuple):
    """Of each column of each segment, [segments, neurons]."""

    sum: Tensor  # float64
    squares: Tensor  # float64
    peak: Tensor  # float32, largest magnitude
    nonzero: Tensor  # int64


class Sums:
    """Totals of blocks [segments, rows, neurons], added one after another."""

    def __init__(self, segments: int, neurons: int):
        shape = (HALVES, segments, neurons)
        dtypes = (torch.float64, torch.float64, torch.float32, torch.int64)
        self.parts = Totals(*(torch.zeros(shape, dtype=dtype) for dtype in dtypes))
        self.next_half = segments * neurons
        self.addresses = [(part.data_ptr(), part.element_size()) for part in self.parts]

    def add(self, values: Tensor, first: int) -> None:
        """Adds values [segments, rows, neurons] to as many segments from the `first` on."""
        values = at_least_float32(values)
        if add_block is not None and values.dtype is torch.float32:
            values = values.contiguous()
            self._add_compiled(add_block, values.shape, first, values.flatten(0, 1))
            return
        total, squares, peak, nonzero = (part[0, first : first + len(values)] for part in self.parts)
        exact = values.double()
        total += exact.sum(1)
        squares += exact.square().sum(1)
        torch.maximum(peak, values.abs().amax(1).float(), out=peak)
        nonzero += values.ne(0).sum(1)

    def add_product(self, a: Tensor, b: Tensor, out: Tensor, segments: int, first: int) -> None:
        """Writes a · b [segments · rows, neurons] to `out` and adds it."""
        shape = (segments, len(out) // segments, out.shape[1])
        one_pass = out.dtype is torch.float32 and b.is_contiguous() and out.is_contiguous()
        if add_block is not None and one_pass and a.stride(1) == 1:
            self._add_compiled(add_block, shape, first, a, b.data_ptr(), out.data_ptr())
        else:
            torch.mul(a, b, out=out)
            self.add(out.view(shape), first)

    def _add_compiled(
        self,
        add_block: Callable[..., None],
        shape: tuple[int, ...],
        first: int,
        values: Tensor,
        factors: int | None = None,
        products: int | None = None,
    ) -> None:
        offset = first * shape[2]
        places = (address + offset * size for address, size in self.addresses)
        rows = (values.data_ptr(), values.stride(0), factors, products)
        add_block(*rows, *shape, self.next_half, *places)

    def totals(self) -> Totals:
        """What was added so far."""
        total, squares, peak, nonzero = self.parts
        return Totals(total.sum(0), squares.sum(0), peak.amax(0), nonzero.sum(0))
