"""Figures with intervals, as summaries store them: {value, low, high, prompts, groups}."""

from collections.abc import Mapping
from typing import Any

from memfast.report.charts import Estimate

Stored = Mapping[str, Any]
FEWEST = 6  # groups: of fewer, the exact 95 % intervals of "none" and of "all" overlap
TOO_FEW = "too few to tell"


def known(figure: Stored | None) -> bool:
    """Whether there is a value at all."""
    return bool(figure) and figure.get("value") is not None


def few(figure: Stored | None) -> bool:
    """Whether a rate rests on so few groups of prompts that no difference could show."""
    return known(figure) and figure is not None and figure.get("groups", FEWEST) < FEWEST


def told(figure: Stored | None) -> str:
    """ "0.25 [0.10, 0.40]"."""
    if not known(figure) or figure is None:
        return "unknown"
    return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]"


def percent(figure: Stored | None) -> str:
    """ "25 %"."""
    return f"{figure['value']:.0%}" if known(figure) and figure is not None else "unknown"


def spread(figure: Stored | None, of: str = "prompts") -> str:
    """The interval and what it rests on, in words."""
    if not known(figure) or figure is None:
        return ""
    tail = f" ({TOO_FEW})" if few(figure) else ""
    return f"95 %: {figure['low']:.2f} to {figure['high']:.2f}, {figure['prompts']} {of}{tail}"


def estimate(figure: Stored) -> Estimate:
    """For a chart."""
    return Estimate(figure["value"], figure["low"], figure["high"])


def below(figure: Stored | None, other: Stored | None) -> str:
    """ "shown" where one figure lies below the other beyond both intervals; else why not."""
    if not known(figure) or not known(other) or figure is None or other is None:
        return ""
    if figure["high"] < other["low"]:
        return "shown"
    return TOO_FEW if few(figure) or few(other) else "not shown"


def headline(summary: Stored, rates: Stored | None = None) -> list[str]:
    """The metrics that claims rest on; all that there are, where it is none of them."""
    names = summary["metrics"] if rates is None else rates
    return [m for m in names if summary["metrics"][m]["headline"]] or list(names)
