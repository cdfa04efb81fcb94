"""Captured passes: graphs of the device of `--device`, or in their place what a CPU can make, a
tape of operators on fixed tensors."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.hooks import apply_group_offloading
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import memfast
from memfast.auditing.looking import taps
from memfast.auditing.looking.settings import Settings
from memfast.auditing.looking.worker import Worker
from memfast.memory import captured as module
from memfast.memory.captured import EAGER, Captured, captured, why_not
from memfast.memory.free import release
from memfast.observing.tracing import trace
from memfast.prompts import PromptSet
from tests.conftest import tiny_unet

PROMPTS = ["a cat", "red dog", "b", "c on a cat", "dog"]
SHORT = {"num_inference_steps": 8, "steps": 6}


class Tape(TorchDispatchMode):
    """A recorder: a replay runs the operators again and overwrites the tensors they made."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.ran: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.ran.append((func, args, kwargs or {}, result))
        return result

    def __call__(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        self.ran = []
        with self:
            result = run()
        ran = self.ran

        def replay() -> None:
            for func, args, kwargs, made in ran:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(made), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)

        return result, replay


@pytest.fixture
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if real := request.config.getoption("--device"):
        return real
    monkeypatch.setitem(module.RECORDERS, "cpu", Tape)
    return "cpu"


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry a replay."""
    found: list[int] = []
    replayed = Captured._replayed

    def counting(*args: Any) -> Any:
        found.append(1)
        return replayed(*args)

    monkeypatch.setattr(Captured, "_replayed", counting)
    return found


@pytest.fixture
def pipeline(tiny_pipeline: StableDiffusionPipeline, device: str) -> StableDiffusionPipeline:
    return tiny_pipeline.to(device)


@pytest.fixture
def unet(device: str) -> Any:
    made: Any = tiny_unet()
    return made.to(device)


def told(unet: Any, seed: int, rows: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    made = {
        "sample": torch.randn(rows, 4, 8, 8, generator=generator),
        "timestep": torch.tensor(100 * seed + 1),
        "encoder_hidden_states": torch.randn(rows, 12, 32, generator=generator),
    }
    return {name: tensor.to(unet.device) for name, tensor in made.items()} | {"return_dict": False}


def same(unet: Any, seeds: range, rows: int = 2) -> None:
    """Each pass is what the model's own forward says, to the bit."""
    own = type(unet).forward
    for seed in seeds:
        arguments = told(unet, seed, rows)
        assert torch.equal(unet(**arguments)[0], own(unet, **arguments)[0])


@pytest.mark.parametrize(
    "how", [{}, {"rows": "both", "prompt_norms": True}, {"batch_size": 2}, {"guidance_scale": 1.0}]
)
def test_collect_gives_the_same_bits(pipeline: Any, how: dict, replays: list[int]) -> None:
    plain = memfast.collect(pipeline, PROMPTS, **SHORT, graphs=False, **how)
    assert not replays
    found = memfast.collect(pipeline, PROMPTS, **SHORT, **how)
    assert replays
    assert "forward" not in vars(pipeline.unet)
    for ours, theirs in ((found.moments, plain.moments), (found.norms, plain.norms)):
        for site, expected in theirs.items():
            for name, tensor in vars(expected).items():
                assert torch.equal(getattr(ours[site], name), tensor), (site, name)


def test_an_audit_tells_times_on_the_device(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number would be copied there, which no capture allows, and be another pass each time."""
    told: list[Any] = []
    forward = type(pipeline.unet).forward

    def hearing(unet: Any, *args: Any, **kwargs: Any) -> Any:
        told.append(kwargs["timestep"])
        return forward(unet, *args, **kwargs)

    monkeypatch.setattr(type(pipeline.unet), "forward", hearing)
    settings = Settings(
        probe="walk",
        walk_steps=2,
        threads=1,
        num_inference_steps=8,
        guidance_scale=2.0,
        graphs=False,
    )
    with Worker(pipeline, settings) as worker:
        list(worker.looks(list(PromptSet.of(PROMPTS[:2]))))
    assert told
    assert {time.device.type for time in told} == {pipeline.unet.device.type}
    assert {time.dtype for time in told} == {torch.int64}


@pytest.mark.parametrize("probe", ["jump", "walk"])
def test_an_audit_gives_the_same_bits(
    pipeline: Any, monkeypatch: pytest.MonkeyPatch, probe: str, replays: list[int]
) -> None:
    monkeypatch.setattr(taps, "gates_tell", lambda driver: True)
    schedule = {"num_inference_steps": 8, "guidance_scale": 2.0}
    found = {}
    for graphs in (False, True):
        settings = Settings(
            probe=probe, noises=2, unit=1, threads=1, walk_steps=3, graphs=graphs, **schedule
        )
        with Worker(pipeline, settings) as worker:
            looks = list(worker.looks(list(PromptSet.of(PROMPTS))))
        found[graphs] = [
            (look.prediction.noise, look.norms, *((look.moments or {}).values()))
            for _, by_noise in looks
            for of_noise in by_noise
            for look in of_noise
        ]
        assert bool(replays) is graphs
    for ours, theirs in zip(found[True], found[False], strict=True):
        for mine, other in zip(tree_leaves(ours), tree_leaves(theirs), strict=True):
            assert torch.equal(mine, other)


@torch.no_grad()
def test_other_weights_are_captured_anew(unet: Any, replays: list[int]) -> None:
    with captured([unet]):
        same(unet, range(5))
        once = len(replays)
        assert once == 5 - EAGER
        unet.conv_in.weight.mul_(2)
        same(unet, range(5))
        unet.conv_in.weight.data = unet.conv_in.weight * 3
        same(unet, range(5))
        unet.conv_in.weight = nn.Parameter(unet.conv_in.weight / 2)
        same(unet, range(5))
        unet.conv_in = tiny_unet(1).conv_in.to(unet.device)
        same(unet, range(5))
        assert len(replays) == 5 * once
    assert "forward" not in vars(unet)


@torch.no_grad()
def test_graphs_are_given_back_where_memory_runs_out(
    unet: Any, replays: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    with captured([unet]):
        same(unet, range(4))
        before = len(replays)
        release(unet.device)
        same(unet, range(4))
    assert before == len(replays) > 0
    (told_once,) = caplog.messages
    assert told_once.endswith("not replayed: memory has run out")


@torch.no_grad()
def test_each_shape_is_captured_by_itself(unet: Any, replays: list[int]) -> None:
    with captured([unet]):
        for rows in (1, 2, 1, 2):
            same(unet, range(4), rows)
    assert len(replays) == 2 * (8 - EAGER)


def test_gradients_and_hooks_want_python(unet: Any, replays: list[int]) -> None:
    heard: list[nn.Module] = []
    with captured([unet]):
        for seed in range(4):
            unet(**told(unet, seed))[0].sum().backward()
        with torch.no_grad():
            same(unet, range(4))
            before = len(replays)
            handle = unet.conv_in.register_forward_hook(lambda module, *_: heard.append(module))
            same(unet, range(4))
            handle.remove()
    assert before == len(replays) == 4 - EAGER
    assert len(heard) == 8


@torch.no_grad()
def test_what_stops_a_capture_is_told_once_and_nothing_is_lost(
    unet: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(run: Callable[[], Any]) -> Any:
        run()
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setitem(module.RECORDERS, unet.device.type, lambda device: broken)
    caplog.set_level(logging.WARNING, "memfast")
    with trace(unet) as traced, captured([unet], list(traced.seen.values())):
        for seed in range(5):
            unet(**told(unet, seed))
            assert len(traced.drain()) == len(traced.sites)
    (told_once,) = caplog.messages
    assert told_once.endswith("not replayed: operation not permitted")


def test_reasons_that_show() -> None:
    unet = tiny_unet()
    assert why_not(unet) is None
    unet.half().conv_in.float()
    assert why_not(unet) is None
    apply_group_offloading(unet, torch.device("cpu"), offload_type="leaf_level")
    assert why_not(unet) == "it is offloaded, or hooked"
    compiled = tiny_unet()
    compiled.compile(backend="eager")
    assert why_not(compiled) == "it is compiled"
    eight = tiny_unet()
    eight.conv_in.weight = nn.Parameter(eight.conv_in.weight.to(torch.int8), requires_grad=False)
    assert why_not(eight) == "its weights are quantised"


@torch.no_grad()
def test_nothing_is_captured_unless_wanted(unet: Any, replays: list[int]) -> None:
    with captured([unet], wanted=False):
        same(unet, range(4))
    assert not replays


@torch.no_grad()
def test_a_pass_that_reads_its_device_is_not_captured(
    unet: Any, replays: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """Found out before any capture is tried, on a device that is waited for."""
    if unet.device.type == "cpu":
        pytest.skip("a CPU is never waited for: --device cuda")
    own = unet.conv_in.forward

    def reading(values: torch.Tensor) -> torch.Tensor:
        return own(values * float(values.abs().max() > 0))

    unet.conv_in.forward = reading
    caplog.set_level(logging.WARNING, "memfast")
    with captured([unet]):
        same(unet, range(4))
    assert not replays
    assert len(caplog.messages) == 1
