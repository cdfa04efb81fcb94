"""Replayed work: on a device without graphs a trace stands in for one, with all that Python said
when it was taken."""

from dataclasses import replace

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from memfast.memory import replaying
from memfast.pipelines.drivers.table import driver_of
from memfast.repairing.erasing.selecting import fisher
from memfast.repairing.run import repair
from tests.repairing.test_frontier import QUICK, REFERENCE, SCHEDULE, samples, weights_of

captured: list[int] = []


class Trace:
    """The operators of one call, without the Python around them."""

    def __init__(self, run, inputs):
        captured.append(1)
        self.run = make_fx(run)(*inputs)

    def __call__(self, *inputs):
        return self.run(*inputs)


@pytest.fixture
def traced(monkeypatch) -> None:
    captured.clear()
    monkeypatch.setattr(replaying, "has_graphs", lambda device: True)
    monkeypatch.setattr(replaying, "_Graph", Trace)


def test_a_repair_replays_its_steps_and_its_attacks(tiny_pipeline, traced, monkeypatch) -> None:
    settings = replace(QUICK, steps=6, perturb=0.3, features=0.5, adversarial=0.5, life=90)

    def run() -> torch.Tensor:
        how = {"settings": settings, **SCHEDULE}
        return weights_of(repair(tiny_pipeline, tiny_pipeline, REFERENCE, **how).pipeline)

    replayed = run()
    assert len(captured) == 2
    monkeypatch.setattr(replaying, "has_graphs", lambda device: False)
    torch.testing.assert_close(replayed, run(), rtol=1e-4, atol=1e-6)


def test_fisher_is_replayed(tiny_pipeline, traced, monkeypatch) -> None:
    driver = driver_of(tiny_pipeline, **SCHEDULE)
    some = samples(driver, REFERENCE[:2])
    replayed = fisher(driver, some, 0)
    assert len(captured) == 1
    monkeypatch.setattr(replaying, "has_graphs", lambda device: False)
    for name, values in fisher(driver, some, 0).items():
        torch.testing.assert_close(replayed[name], values, rtol=1e-4, atol=1e-12)


def test_what_cannot_be_captured_is_called(traced, monkeypatch, caplog) -> None:
    def refuse(run, inputs):
        raise RuntimeError("capturing failed")

    monkeypatch.setattr(replaying, "_Graph", refuse)
    work = replaying.Replayed(lambda x: 2 * x)
    assert [float(work(torch.tensor(float(k)))) for k in range(5)] == [0, 2, 4, 6, 8]
    assert len([r for r in caplog.records if "capturing failed" in r.message]) == 1


def test_every_shape_is_captured_for_itself(traced) -> None:
    work = replaying.Replayed(lambda x: 2 * x)
    for _ in range(4):
        for rows in range(1, 7):
            assert torch.equal(work(torch.ones(rows)), torch.full((rows,), 2.0))
    assert len(captured) == replaying.MOST
