"""Replayed work: on a device without graphs a trace stands in for one, with all that Python said
when it was taken."""

from dataclasses import replace

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from memfast.memory import captured as captured_
from memfast.memory import replaying
from memfast.pipelines.drivers.table import driver_of
from memfast.repairing.erasing.selecting import fisher
from memfast.repairing.run import repair
from tests.repairing.test_frontier import QUICK, REFERENCE, SCHEDULE, samples, weights_of

captured: list[int] = []


def trace(run):
    """The operators of one call, without the Python around them; results lie where they lay."""
    captured.append(1)
    operators = make_fx(run)()
    output = operators()

    def replay() -> None:
        for old, new in zip(tree_leaves(output), tree_leaves(operators()), strict=True):
            if isinstance(old, torch.Tensor):
                old.detach().copy_(new)

    return output, replay


@pytest.fixture
def traced(monkeypatch) -> None:
    captured.clear()
    monkeypatch.setitem(captured_.RECORDERS, "cpu", lambda device: trace)


def test_a_repair_replays_its_steps_and_its_attacks(tiny_pipeline, traced, monkeypatch) -> None:
    settings = replace(QUICK, steps=6, perturb=0.3, features=0.5, adversarial=0.5, life=90)

    def run() -> torch.Tensor:
        how = {"settings": settings, **SCHEDULE}
        return weights_of(repair(tiny_pipeline, tiny_pipeline, REFERENCE, **how).pipeline)

    replayed = run()
    assert len(captured) == 2
    monkeypatch.delitem(captured_.RECORDERS, "cpu")
    torch.testing.assert_close(replayed, run(), rtol=1e-4, atol=1e-6)


def test_fisher_is_replayed(tiny_pipeline, traced, monkeypatch) -> None:
    driver = driver_of(tiny_pipeline, **SCHEDULE)
    some = samples(driver, REFERENCE[:2])
    replayed = fisher(driver, some, 0)
    assert len(captured) == 1
    monkeypatch.delitem(captured_.RECORDERS, "cpu")
    for name, values in fisher(driver, some, 0).items():
        torch.testing.assert_close(replayed[name], values, rtol=1e-4, atol=1e-12)


def test_what_cannot_be_captured_is_called(traced, monkeypatch, caplog) -> None:
    def refuse(run):
        raise RuntimeError("capturing failed")

    monkeypatch.setitem(captured_.RECORDERS, "cpu", lambda device: refuse)
    work = replaying.Replayed(lambda x: 2 * x)
    assert [float(work(torch.tensor(float(k)))) for k in range(5)] == [0, 2, 4, 6, 8]
    assert len([r for r in caplog.records if "capturing failed" in r.message]) == 1


def test_every_shape_is_captured_for_itself(traced) -> None:
    work = replaying.Replayed(lambda x: 2 * x)
    for _ in range(4):
        for rows in range(1, 7):
            assert torch.equal(work(torch.ones(rows)), torch.full((rows,), 2.0))
    assert len(captured) == replaying.MOST
