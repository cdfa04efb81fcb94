"""The cells of an arrow column as plain values; a bad one is a BadRow in its place."""

from collections.abc import Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from memfast.errors import one_line
from memfast.limits import Limits
from memfast.prompts.sources.rows import BadRow


def cells(column: pa.Array, limits: Limits) -> Iterator[Any]:
    """Text (bytes that are not UTF-8 as lone surrogates), numbers, None, and [] or {} for what is
    no single value; one at a time. Raises ArrowInvalid where the whole column is damaged."""
    if pa.types.is_dictionary(column.type):
        words, known = _valid(column.dictionary), dict[int | None, Any]({None: None})
        for scalar in _valid(column.indices):
            index = scalar.as_py()
            if index not in known:
                known[index] = _cell(words[index], limits)
            yield known[index]
    else:
        for scalar in _valid(column):
            yield _cell(scalar, limits)


def _valid(column: pa.Array) -> pa.Array:
    """The column, text as bytes: one cell that is not UTF-8 is then no damage to it."""
    if pa.types.is_string(column.type):
        column = column.view(pa.binary())
    elif pa.types.is_large_string(column.type):
        column = column.view(pa.large_binary())
    fixed = pa.types.is_primitive(column.type) or pa.types.is_decimal(column.type)
    column.validate(full=not fixed)  # where each cell has its place, a bad value is that cell's
    return column


def _cell(scalar: pa.Scalar, limits: Limits) -> Any:
    try:
        if isinstance(scalar, (pa.BinaryScalar, pa.LargeBinaryScalar)):
            size = len(scalar.as_buffer()) if scalar.is_valid else 0
            if size > limits.line:
                return BadRow(f"over-long: {size} bytes, at most {limits.line} (limit line)")
        return _plain(scalar.as_py())
    except Exception as error:  # far dates and the like: each type has its own
        return BadRow(one_line(error))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (date, time, timedelta, Decimal)):
        return str(value)
    return {} if isinstance(value, dict) else []
