"""Work in portions: when memory runs out, half as many rows at once, and the same portion again."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from memfast.errors import InputError, is_out_of_memory, one_line
from memfast.memory.free import release

Result = TypeVar("Result")


class Portion:
    """How many rows are worked on at once: fewer, from then on, when memory has run out."""

    def __init__(self, rows: int, device: torch.device | str = "cpu", unit: int = 1):
        """unit: rows that cannot be parted."""
        self.rows, self.device, self.unit = max(rows, unit), device, unit

    def over(self, total: int, work: Callable[[slice], Result]) -> Iterator[Result]:
        """What `work` makes of consecutive slices of `total` rows.

        A slice for which memory runs out is halved and worked on again: `work` must leave nothing
        behind when it fails. Raises InputError where one unit does not fit.
        """
        done = 0
        while done < total:
            part = slice(done, min(done + self.rows, total))
            try:
                result = work(part)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                result, failed = None, one_line(error)
            else:
                done = part.stop
                yield result
                continue
            self.halve(part.stop - part.start, failed)

    def halve(self, rows: int, failed: str) -> None:
        """Work on half of `rows` from now on. Raises InputError where they are but one unit."""
        if rows <= self.unit:
            raise InputError(
                f"out of memory on {self.device} with {rows} rows at once ({failed}); try --dtype "
                "bfloat16, an offloaded pipeline, or a smaller image; `memfast plan` says what fits"
            )
        self.rows = max(self.unit, rows // 2 // self.unit * self.unit)
        release(self.device)
