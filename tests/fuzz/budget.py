"""Properties with two budgets: a short one for CI, always of the same examples, and a long one
under the marker soak, of others each time."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memfast.errors import InputError

BYTES = st.sampled_from([0, 1, 34, 127, 128, 255]) | st.integers(0, 255)
LONGER = int(os.environ.get("MEMFAST_SOAK", "300"))  # times as many examples with `-m soak`


def fuzzed(short: int, **strategies: st.SearchStrategy) -> Callable:
    """A test that calls the decorated function with so many examples."""
    budgets = [
        pytest.param(short, id="short"),
        pytest.param(short * LONGER, id="soak", marks=pytest.mark.soak),
    ]

    def decorate(check: Callable) -> Callable:
        def test(examples: int) -> None:
            bounds = settings(
                max_examples=examples,
                deadline=None,
                database=None,
                derandomize=examples == short,
                suppress_health_check=list(HealthCheck),
            )
            bounds(given(**strategies)(check))()

        test.__doc__ = check.__doc__
        return pytest.mark.parametrize("examples", budgets)(test)

    return decorate


def refused(call: Callable[[], Any], place: str) -> Any:
    """What `call` returns; None where it raises an InputError of one line that names `place`."""
    try:
        return call()
    except InputError as error:
        line = str(error)
    assert place in line
    assert len(line.splitlines()) == 1
    line.encode()  # it can be printed
    return None


@st.composite
def damaged(draw: st.DrawFn, wholes: st.SearchStrategy[bytes]) -> bytes:
    """A whole file with a few bytes changed, cut out or put in, or its end cut off."""
    content = bytearray(draw(wholes))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(content)))
        match draw(st.sampled_from(["change", "cut", "insert", "end"])):
            case "change" if place < len(content):
                content[place] = draw(
                    st.sampled_from([0, 1, 34, 127, 128, 255]) | st.integers(0, 255)
                )
            case "cut":
                del content[place : place + draw(st.integers(1, 9))]
            case "insert":
                content[place:place] = draw(st.binary(max_size=9))
            case "end":
                del content[place:]
    return bytes(content)
