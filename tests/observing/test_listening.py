"""Which rows are whose, where a pipeline calls its denoiser once for each half of guidance."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from diffusers.models.attention import FeedForward
from torch import nn

from memfast.errors import InputError
from memfast.observing.listening import Listener
from memfast.observing.tracing import trace
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.guidance import CONDITIONAL, UNCONDITIONAL
from memfast.pipelines.schedule import Schedule

VALUES = {CONDITIONAL: 1.0, UNCONDITIONAL: 0.0}
BOTH = (CONDITIONAL, UNCONDITIONAL)


class Denoiser(nn.Module):
    """One feed-forward."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.ff = FeedForward(8, mult=2)

    def forward(self, hidden_states: torch.Tensor, timestep: Any) -> torch.Tensor:
        return self.ff(hidden_states)


class Apart(DiffusionPipeline):
    """Conditional rows are 1, unconditional rows 0; a step makes the calls given, each with the
    rows of the halves that it names."""

    calls: list[tuple[str, ...]]

    def __init__(self, transformer: Denoiser, scheduler: DDIMScheduler):
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)

    def __call__(self, prompt: list[str], num_inference_steps: int, **_: Any) -> None:
        self.scheduler.set_timesteps(num_inference_steps)
        for time in self.scheduler.timesteps:
            for halves in self.calls:
                rows = [torch.full((len(prompt), 4, 8), VALUES[half]) for half in halves]
                self.transformer(torch.cat(rows), timestep=time)


def heard(
    calls: list[tuple[str, ...]], halves: tuple[str, str], together: bool = False, steps: int = 2
) -> tuple[nn.Module, list[dict]]:
    """The denoiser, and what a listener hears whose driver expects those halves."""
    expected = {"kind": "Apart", "needs": (), "latent_shape": (4, 8)}
    kind = type("Expected", (Driver,), {**expected, "halves": halves, "together": together})
    pipeline = Apart(Denoiser(), DDIMScheduler(timestep_spacing="trailing"))
    pipeline.calls = calls
    driver, seen = kind(pipeline), []
    with trace(driver.model, driver=driver) as traced:
        listener = Listener(driver, traced, Schedule(3, 7.5))
        sources = [torch.Generator() for _ in range(2)]
        listener.run(["a", "b"], sources, steps, lambda _, call: seen.append(call))
    return driver.model, seen


@pytest.mark.parametrize("halves", [BOTH, BOTH[::-1]])
@pytest.mark.parametrize("together", [False, True])
def test_halves_are_told_apart_by_their_order(halves, together):
    calls = [halves] if together else [(half,) for half in halves]
    model, seen = heard(calls, halves, together)
    assert len(seen) == 2
    for call in seen:
        assert call.keys() == set(BOTH)
        for half, value in VALUES.items():
            hidden = model.ff.net[0](torch.full((1, 8), value))
            torch.testing.assert_close(
                call[half].mean, hidden.double().expand(2, -1), rtol=1e-5, atol=1e-7
            )
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


@pytest.mark.parametrize(
    ("calls", "together", "reason"),
    [
        ([BOTH], False, r"2 prompts gave \[4\] images in a denoiser call, not as the driver of"),
        ([BOTH[:1], BOTH[1:]], True, r"2 prompts gave \[2\] images in a denoiser call"),
        ([BOTH[:1]], False, "at 999 and 666 where the driver of Apart expects"),
        ([BOTH[:1], BOTH[1:], BOTH[1:]], False, "both halves of a step"),
    ],
)
def test_rows_that_cannot_be_told_apart_are_refused(calls, together, reason):
    with pytest.raises(InputError, match=reason):
        heard(calls, BOTH, together)


def test_a_schedule_of_fewer_steps_is_refused():
    with pytest.raises(InputError, match="the schedule makes only 3, not 4"):
        heard([BOTH], BOTH, together=True, steps=4)
