"""How many rows of a pipeline are worked on at once: as many as are useful, of those that fit.

What a row takes is counted on the denoiser's shapes; small models are not counted, since what is
useful fits. Where the count is wrong, the portion shrinks when memory runs out.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from memfast.blocks.denoisers import Denoisers
from memfast.blocks.families import uncompiled
from memfast.blocks.sizes import parameters
from memfast.memory.counting import Count, count, without_memory
from memfast.memory.free import free_memory
from memfast.memory.portions import Portion
from memfast.pipelines.drivers.calls import nested

_log = logging.getLogger("memfast")
SMALL = 100_000_000  # parameters: what is useful of such models fits everywhere
SHARE = 0.8  # of the free memory that is counted on
COUNTED = 2  # rows
FILLING = {"cuda": 64, "xpu": 64}  # rows a call; an H100's rate with SD1.4 grows no further
FEWEST = 8  # and of other devices
UNCOUNTED = 4  # rows of a model that cannot be counted
LARGE = 1_000_000_000  # parameters of a text encoder
TEXTS, FEW = 512, 32  # encoded at once, by smaller and by larger ones


def portion(
    driver: Any, useful: int, rows: int, gradients: bool = False, checkpointing: bool = False
) -> Portion:
    """Of a driver, at most `useful` items, each of `rows` rows of the denoiser.

    gradients: by what the denoiser is told, or by gates or weights within it.
    """
    if parameters(driver.model) < SMALL:
        return Portion(useful, driver.device)
    taken = row_of(driver, gradients, checkpointing)
    if taken is None:
        return Portion(min(useful, UNCOUNTED // rows), driver.device)
    free = free_memory(driver.device)
    found = Portion(min(useful, int(SHARE * free / taken) // rows), driver.device)
    _log.warning(
        f"a row of the denoiser takes {taken / 1e9:.2g} GB{' with gradients' * gradients}, and "
        f"{free / 1e9:.3g} GB are free on {driver.device}: {found.rows * rows} rows at once"
    )
    return found


def filling(driver: Any) -> int:
    """Rows of a call that keep a driver's device busy."""
    return FILLING.get(driver.device.type, FEWEST)


def row_of(driver: Any, gradients: bool, checkpointing: bool = False) -> int | None:
    """Bytes that a row takes, None where that cannot be counted; once a driver."""
    known: dict[Any, int | None] = vars(driver).setdefault("_row_of", {})
    key = gradients, checkpointing
    if key not in known:
        try:
            known[key] = counted(driver, gradients, checkpointing).bytes // COUNTED
        except Exception:  # a model that looks at values, or is not made from its config
            known[key] = None
    return known[key]


def counted(driver: Any, gradients: bool, checkpointing: bool) -> Count:
    """What COUNTED rows of a loaded pipeline take."""
    latents = torch.zeros(COUNTED, *driver.latent_shape, device="cpu", dtype=driver.dtype)
    told = driver.no_prompt.expand(COUNTED)
    arguments = nested(driver.arguments(latents, driver.path.time_of(0.5), told.to("cpu")))
    model = uncompiled(driver.model)
    first = next(iter(model.children())) if isinstance(model, Denoisers) else model
    with without_memory():
        twin: Any = made_from(type(first), first.config, driver.dtype)
        if checkpointing:
            twin.enable_gradient_checkpointing()
        return count_call(twin, hollow(arguments), gradients)


def made_from(kind: Any, config: Any, dtype: torch.dtype) -> nn.Module:
    """A model of that config and dtype, within `without_memory`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return kind.from_config(dict(config)).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def hollow(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with tensors that have shapes alone."""

    def emptied(leaf: Any) -> Any:
        return torch.empty(leaf.shape, dtype=leaf.dtype) if isinstance(leaf, Tensor) else leaf

    return tree_map(emptied, arguments)


def count_call(model: nn.Module, arguments: dict[str, Any], gradients: bool) -> Count:
    """What one call takes, with gradients by latents and embeddings where asked: positions, times
    and pooled texts take none."""
    if not gradients:
        with torch.no_grad():
            return count(lambda: model(**arguments, return_dict=False), model)
    leaves: list[Tensor] = []

    def asking(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim > 2:
            leaf = leaf.detach().requires_grad_()
            leaves.append(leaf)
        return leaf

    asked = tree_map(asking, arguments)

    def run() -> Any:
        output = model(**asked, return_dict=False)[0]
        return torch.autograd.grad(output.float().square().mean(), leaves, allow_unused=True)

    with torch.enable_grad():
        return count(run, model)


def texts_at_once(pipeline: Any) -> Portion:
    """How many texts are encoded at once."""
    encoders = [part for name, part in pipeline.components.items() if "encoder" in name]
    sizes = [parameters(part) for part in encoders if isinstance(part, nn.Module)]
    return Portion(FEW if max(sizes, default=0) > LARGE else TEXTS, pipeline._execution_device)
