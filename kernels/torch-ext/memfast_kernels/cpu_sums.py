"""Running sums over the rows of blocks that lie in cache: one pass in C where it was compiled at
install, a few passes of torch elsewhere and for other dtypes than float32.
"""

import ctypes
from ctypes import c_double, c_int64, c_void_p
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor


class _State(ctypes.Structure):
    """`struct state` of columns.c."""

    _fields_ = (
        *((name, c_int64) for name in ("halves", "next_half")),
        *((name, c_void_p) for name in ("sum", "squares", "peak", "nonzero")),
    )


def _compiled() -> ctypes.CDLL | None:
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_columns{suffix}")
        if path.is_file():
            try:
                library = ctypes.CDLL(str(path))
            except OSError:  # built for another machine, or torch brings no OpenMP
                return None
            state = ctypes.POINTER(_State)
            library.walk.argtypes = [state, *[c_int64] * 5, *[c_void_p] * 4]
            library.walk.restype = None
            library.finish.argtypes = [state, c_int64, c_double, *[c_void_p] * 4]
            library.finish.restype = c_int64
            library.prefer_huge_pages.argtypes = [c_void_p, c_int64]
            library.prefer_huge_pages.restype = None
            return library
    return None


LIBRARY = _compiled()
FRESH_BYTES = 32 * 2**20  # what is as large, glibc maps anew each time


def at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def one_pass(values: Tensor) -> bool:
    """Whether values of this dtype are counted by the one pass in C."""
    return LIBRARY is not None and values.dtype is torch.float32


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
        self.exact = torch.zeros(2, *shape, dtype=torch.float64)
        self.peak = torch.zeros(shape, dtype=torch.float32)
        self.nonzero = torch.zeros(shape, dtype=torch.int64)
        sums = self.exact.data_ptr()
        squares = sums + self.exact.nbytes // 2
        addresses = (sums, squares, self.peak.data_ptr(), self.nonzero.data_ptr())
        self.state = _State(1 + halved, segments * neurons, *addresses)

    @property
    def parts(self) -> Totals:
        """The sums of each half of the rows, [halves, segments, neurons]."""
        return Totals(self.exact[0], self.exact[1], self.peak, self.nonzero)

    def add(self, values: Tensor, first: int, weights: Tensor | None = None) -> None:
        """Adds values [segments, rows, neurons], each row times its weight if there are weights
        [segments · rows], to as many segments from the `first` on."""
        values = at_least_float32(values)
        if weights is not None:
            weights = weights.to(values.dtype).contiguous()
        if LIBRARY is not None and one_pass(values):
            values = values.contiguous()
            weights_address = None if weights is None else weights.data_ptr()
            addresses = (values.data_ptr(), weights_address, None, None)
            LIBRARY.walk(self.state, first, *values.shape, values.stride(1), *addresses)
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

    def totals(self) -> Totals:
        """What was added so far."""
        total, squares, peak, nonzero = self.parts
        return Totals(total.sum(0), squares.sum(0), peak.amax(0), nonzero.sum(0))

    def moments(self, rows: int, cancelled: float) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """mean, m2, max_abs and nonzero [segments, neurons] of segments of so many rows, and in how
        many columns m2 is less than the share `cancelled` of the squares."""
        if LIBRARY is not None:
            shape = self.peak.shape[1:]
            mean = torch.empty(shape, dtype=torch.float64)
            m2 = torch.empty_like(mean)
            peak = torch.empty(shape, dtype=torch.float32)
            nonzero = torch.empty(shape, dtype=torch.int64)
            addresses = (mean.data_ptr(), m2.data_ptr(), peak.data_ptr(), nonzero.data_ptr())
            return mean, m2, peak, nonzero, LIBRARY.finish(self.state, rows, cancelled, *addresses)
        total, squares, peak, nonzero = self.totals()
        mean = total / max(1, rows)
        m2 = squares - total * mean
        return mean, m2, peak, nonzero, int((m2 < cancelled * squares).sum())


class Products:
    """Writes H = value · activated, one block of rows after another, to hidden [rows, neurons], and
    adds it to the sums if there are any."""

    def __init__(self, hidden: Tensor, sums: Sums | None):
        self.hidden, self.sums = hidden, sums
        self.in_c = one_pass(hidden)
        self.state = None if sums is None else sums.state
        self.address, self.row_bytes = hidden.data_ptr(), hidden.stride(0) * hidden.element_size()
        if LIBRARY is not None and hidden.nbytes >= FRESH_BYTES:
            LIBRARY.prefer_huge_pages(self.address, hidden.nbytes)

    def add(
        self, projected: Tensor, activated: Tensor, start: int, segments: int = 1, first: int = 0
    ) -> None:
        """Writes as many rows, from `start` on, as projected [rows, value and gate] and activated
        [rows, neurons] have, both contiguous: those of `segments` segments from the `first` on."""
        rows, neurons = activated.shape
        if LIBRARY is not None and self.in_c:
            assert activated.is_contiguous()
            assert projected.is_contiguous()
            sizes = (first, segments, rows // segments, neurons, projected.stride(0))
            hidden = self.address + start * self.row_bytes
            addresses = (projected.data_ptr(), None, activated.data_ptr(), hidden)
            LIBRARY.walk(self.state, *sizes, *addresses)
            return
        hidden = self.hidden[start : start + rows]
        torch.mul(projected[:, :neurons], activated, out=hidden)
        if self.sums is not None:
            self.sums.add(hidden.unflatten(0, (segments, -1)), first)
