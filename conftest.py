"""`pytest --benchmark` runs benchmarks/ (pytest-benchmark's own options still work)."""

import sys
from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--benchmark", action="store_true", help="run benchmarks/ (or the ones given) and time them"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--benchmark"):
        config.option.benchmark_skip = False
        config.option.benchmark_only = True
        unchecked = [
            finder for finder in sys.meta_path if "jaxtyping" not in type(finder).__module__
        ]
        sys.meta_path[:] = unchecked  # type checks at run time would be timed with the rest
        if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
            config.args = [str(config.rootpath / "benchmarks")]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch computes on one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
