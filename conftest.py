"""`pytest --benchmark` runs benchmarks/ (pytest-benchmark's own options still work)."""

import sys

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
