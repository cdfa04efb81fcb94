"""These tests interpret the Triton kernels, so TRITON_INTERPRET must be set before any import.

With `--device cuda` they run the compiled kernels instead.
"""

import os

import pytest

REASON = "needs a process of its own: TRITON_INTERPRET=1 pytest tests/kernels/interpreter"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("TRITON_INTERPRET") == "1" or config.getoption("--device"):
        return
    for item in items:
        if "interpreter" in item.path.parts:
            item.add_marker(pytest.mark.skip(reason=REASON))
