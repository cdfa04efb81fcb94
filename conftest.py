"""`pytest --benchmark` runs benchmarks/ (pytest-benchmark's own options still work)."""

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
        if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
            config.args = [str(config.rootpath / "benchmarks")]
