"""Replayed work: graphs of the device of `--device`, or in their place on a CPU a trace, with all
that Python said when it was taken."""

from dataclasses import replace

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from memfast.memory import captured as module
from memfast.memory import replaying
from memfast.pipelines.drivers.table import driver_of
from memfast.repairing.erasing.selecting import fisher
from memfast.repairing.run import repair
from tests.repairing.test_frontier import QUICK, REFERENCE, SCHEDULE, samples, weights_of

captured: list[int] = []


def trace(run):
    """The operators of one call, without the Python around them; results lie where they lay."""
    operators = make_fx(run)()
    output = operators()

    def replay() -> None:
        for old, new in zip(tree_leaves(output), tree_leaves(operators()), strict=True):
            if isinstance(old, torch.Tensor):
                old.detach().copy_(new)

    return output, replay


@pytest.fixture
def pipeline(tiny_pipeline, request, monkeypatch):
    """Where there are graphs, real ones or traces; `captured` counts them."""
    captured.clear()
    device = request.config.getoption("--device") or "cpu"
    own = module.RECORDERS.get(torch.device(device).type)

    def recorder(place):
        record = own(place) if own else trace
        return lambda run: captured.append(1) or record(run)

    monkeypatch.setitem(module.RECORDERS, torch.device(device).type, recorder)
    return tiny_pipeline.to(device)


@pytest.fixture
def without(monkeypatch):
    """Turns graphs off."""
    return lambda: [monkeypatch.delitem(module.RECORDERS, name) for name in [*module.RECORDERS]]


def test_a_repair_replays_its_steps_and_its_attacks(pipeline, without) -> None:
    settings = replace(QUICK, steps=6, perturb=0.3, features=0.5, adversarial=0.5, life=90)

    def run() -> torch.Tensor:
        how = {"settings": settings, **SCHEDULE}
        return weights_of(repair(pipeline, pipeline, REFERENCE, **how).pipeline)

    replayed = run()
    assert len(captured) == 2
    without()
    torch.testing.assert_close(replayed, run(), rtol=1e-4, atol=1e-6)


def test_fisher_is_replayed(pipeline, without) -> None:
    driver = driver_of(pipeline, **SCHEDULE)
    some = samples(driver, REFERENCE[:2])
    replayed = fisher(driver, some, 0)
    assert len(captured) == 1
    without()
    for name, values in fisher(driver, some, 0).items():
        torch.testing.assert_close(replayed[name], values, rtol=1e-4, atol=1e-12)


def test_what_cannot_be_captured_is_called(monkeypatch, caplog) -> None:
    def refuse(run):
        raise RuntimeError("capturing failed")

    monkeypatch.setitem(module.RECORDERS, "cpu", lambda device: refuse)
    work = replaying.Replayed(lambda x: 2 * x)
    assert [float(work(torch.tensor(float(k)))) for k in range(5)] == [0, 2, 4, 6, 8]
    assert len([r for r in caplog.records if "capturing failed" in r.message]) == 1


def test_every_shape_is_captured_for_itself(pipeline) -> None:
    work, device = replaying.Replayed(lambda x: 2 * x), pipeline.device
    for _ in range(4):
        for rows in range(1, 7):
            made = work(torch.ones(rows, device=device))
            assert torch.equal(made, torch.full_like(made, 2))
            assert len(made) == rows
    assert len(captured) == replaying.MOST
