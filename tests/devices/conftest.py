"""The accelerator: the one of `--device`, or a pretended one.

That is known before any test of the process takes a gradient: autograd makes a queue for each
device at its first backward pass, and none later.
"""

from collections.abc import Iterator

import pytest

from tests.support import accelerator


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    if not config.getoption("--device"):  # beside CUDA's it confuses autograd
        accelerator.install()


@pytest.fixture
def far(request: pytest.FixtureRequest) -> Iterator[str]:
    """The accelerator's name; within the test torch sees it."""
    if real := request.config.getoption("--device"):
        yield real
        return
    with accelerator.available() as name, accelerator.saved_from_the_cpu():
        yield name
