"""What a model is, and everything else that shapes a result."""

import json
from hashlib import sha256
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from memfast.blocks.families import find_sites
from memfast.errors import InputError
from memfast.version import __version__


def fingerprint(model: nn.Module) -> str:
    """Identifies a denoiser: its class, the weights its neurons feed, and a sample of the rest.

    Values are taken as float32; of each other parameter about 256, evenly spaced.
    """
    digest = sha256(type(model).__name__.encode())
    whole = {id(site.contraction.weight) for site in find_sites(model).values()}
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise InputError("the model's weights are on the meta device (sequential offload)")
        values = parameter.detach().flatten()
        if id(parameter) not in whole:
            values = values[:: max(1, len(values) // 256)]
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(values.to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()[:32]


def schedule_of(pipeline: DiffusionPipeline) -> dict[str, Any]:
    """The scheduler's class and public settings, as JSON holds them."""
    config = {key: value for key, value in pipeline.scheduler.config.items() if key[0] != "_"}
    return json.loads(
        json.dumps({"class": type(pipeline.scheduler).__name__, **config}, default=str)
    )


def versions() -> dict[str, Any]:
    """Of everything that shapes a result."""
    import diffusers

    return {"memfast": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
