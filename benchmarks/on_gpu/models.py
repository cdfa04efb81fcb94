"""Whole denoisers of Stable Diffusion 1.4 and XL with random weights, and memfast's commands."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from memfast_kernels.triton_backend import tuning
from torch import Tensor, nn

from memfast.blocks.families import find_sites
from memfast.blocks.families.examples import EXAMPLES
from memfast.memory.captured import captured
from memfast.observing.side_by_side import Places, merge_in_order
from memfast.observing.side_by_side import Row as Statistics
from memfast.observing.tracing import trace
from on_gpu.bench import Bench, Row

SD14, SDXL = (
    {**EXAMPLES[name].released, "sample_size": EXAMPLES[name].size} for name in ("SD 1.4", "SDXL")
)
SMALL: dict[str, Any] = {**EXAMPLES["SD 1.4"].tiny, "cross_attention_dim": 32}


@contextmanager
def made_on(bench: Bench) -> Iterator[None]:
    """Within the context modules are made on the device, in its dtype."""
    torch.manual_seed(0)
    torch.set_default_dtype(bench.dtype)
    try:
        with bench.device:
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def denoiser(bench: Bench, config: dict[str, Any]) -> UNet2DConditionModel:
    with made_on(bench):
        return UNet2DConditionModel(**config).eval().requires_grad_(False)


def told(bench: Bench, config: dict[str, Any], rows: int) -> dict[str, Any]:
    """The arguments of a pass."""
    made: dict[str, Any] = {"device": bench.device, "dtype": bench.dtype}
    side = config["sample_size"]
    arguments: dict[str, Any] = {
        "sample": torch.randn(rows, 4, side, side, **made),
        "timestep": torch.tensor(500, device=bench.device),
        "encoder_hidden_states": torch.randn(rows, 77, config["cross_attention_dim"], **made),
        "return_dict": False,
    }
    if "addition_embed_type" in config:
        added = {"text_embeds": (rows, 1280), "time_ids": (rows, 6)}
        arguments["added_cond_kwargs"] = {n: torch.randn(*s, **made) for n, s in added.items()}
    return arguments


class Watched:
    """A traced denoiser whose statistics go into a running state, as `collect` keeps it."""

    def __init__(self, model: nn.Module, traced: Any):
        self.model, self.traced = model, traced
        self.places = Places({path: site.neurons for path, site in find_sites(model).items()})
        self.lists = list(traced.seen.values())
        self.state = self.places.empty(1)

    def seen(self, arguments: dict[str, Any]) -> Tensor:
        """A pass whose statistics nobody keeps."""
        output = self.model(**arguments)[0]
        self.traced.clear()
        return output

    def row(self, arguments: dict[str, Any]) -> Statistics:
        self.model(**arguments)
        return self.places.row(self.traced.drain())

    def kept(self, arguments: dict[str, Any]) -> None:
        """A pass whose conditional half is merged into the state."""
        row = self.row(arguments)
        half = row.images(slice(len(row.count) // 2, None))
        half.first_not_finite()
        self.state = merge_in_order(self.state, half)


def told_of(check: Callable[[], None]) -> str:
    """What a check says: a figure beside a failed one is shown with it."""
    try:
        check()
    except ArithmeticError as error:
        return f"WRONG: {error}"
    return "right"


def check_counts(model: nn.Module, watched: Watched, arguments: dict[str, Any]) -> None:
    """Norms and maxima of every site are those of what its contracting linear read."""
    truth: dict[str, tuple[Tensor, Tensor]] = {}
    handles = []
    for path, site in find_sites(model).items():

        def see(_: nn.Module, inputs: tuple[Tensor, ...], path: str = path) -> None:
            values = inputs[0].flatten(1, -2).double()
            truth[path] = values.square().sum(1).sqrt(), values.abs().amax(1)

        handles.append(site.contraction.register_forward_pre_hook(see))
    model(**arguments)
    for handle in handles:
        handle.remove()
    for path, moments in watched.traced.drain().items():
        norm, top = truth[path]
        if not torch.allclose(moments.l2_norm, norm, rtol=1e-6, atol=0):
            raise ArithmeticError(f"{path}: norms are not those of its neurons")
        if not torch.equal(moments.max_abs.double(), top):
            raise ArithmeticError(f"{path}: maxima are not those of its neurons")


def check_replays(model: nn.Module, watched: Watched, arguments: dict[str, Any]) -> None:
    """Within `captured`: replays give the bits of an eager pass, also when they are told others."""
    other = {n: v.flip(0) if isinstance(v, Tensor) and v.ndim else v for n, v in arguments.items()}
    for _ in range(4):
        watched.row(arguments)
    for given in (arguments, other, arguments):
        found = (model(**given)[0], watched.places.row(watched.traced.drain()))
        forward, own = type(model).forward, vars(model).pop("forward", None)
        expected = (forward(model, **given)[0], watched.places.row(watched.traced.drain()))
        if own is not None:
            model.forward = own
        for name, tensor in vars(expected[1]).items():
            if not torch.equal(getattr(found[1], name), tensor):
                raise ArithmeticError(f"a replay's {name} is not the eager pass's")
        if not torch.equal(found[0], expected[0]):
            raise ArithmeticError("a replay's output is not the eager pass's")


@contextmanager
def without_fused_products() -> Iterator[None]:
    """Within the context gates take the vendor's linear and the pointwise kernel."""
    before = dict(tuning.FUSED_CHANNELS)
    tuning.FUSED_CHANNELS.clear()
    try:
        yield
    finally:
        tuning.FUSED_CHANNELS.update(before)


@torch.no_grad()
def unet(bench: Bench) -> Iterator[Row]:
    """Milliseconds a pass: bare, watched, its statistics kept; eager, and replayed."""
    real = [("SD1.4", SD14, (2, 16)), ("SDXL", SDXL, (2, 8))]
    for name, config, batches in real if bench.cuda else [("tiny", SMALL, (2,))]:
        model: Any = denoiser(bench, config)
        for rows in batches:
            yield of_unet(bench, f"{name} × {rows}", model, told(bench, config, rows))
        del model
        if bench.cuda:
            torch.cuda.empty_cache()


def of_unet(bench: Bench, name: str, model: Any, arguments: dict[str, Any]) -> Row:
    def bare() -> Tensor:
        return model(**arguments)[0]

    row: Row = {"pass": name, "bare": bench.ms(bare), "bare, graph": bench.ms(bench.graph(bare))}
    expected = bare().float()
    with trace(model) as traced:
        watched = Watched(model, traced)
        off = (watched.seen(arguments).float() - expected).norm() / expected.norm()
        row["output off by"] = f"{float(off):.1e}"
        row["counts"] = told_of(lambda: check_counts(model, watched, arguments))
        row["watched"] = bench.ms(lambda: watched.seen(arguments))
        row["kept"] = bench.ms(lambda: watched.kept(arguments))
        with captured([model], watched.lists):
            row["replays"] = told_of(lambda: check_replays(model, watched, arguments))
            row["kept, replayed"] = bench.ms(lambda: watched.kept(arguments))
            own: Any = vars(model).get("forward")
            row["captured"] = own is not None and not own.refused
            row["replay, host µs"] = bench.host_us(lambda: watched.seen(arguments))
    with without_fused_products():
        row["kept, replayed, no fused product"] = replayed(bench, model, arguments)
    row["row-normalised, replayed"] = replayed(bench, model, arguments, row_normalised=True)
    row["kept / bare"] = round(row["kept"] / row["bare"], 3)
    row["replayed / graph"] = round(row["kept, replayed"] / row["bare, graph"], 3)
    return row


def replayed(bench: Bench, model: nn.Module, arguments: dict[str, Any], **how: bool) -> float:
    with trace(model, **how) as traced, captured([model], list(traced.seen.values())):
        watched = Watched(model, traced)
        return bench.ms(lambda: watched.kept(arguments))
