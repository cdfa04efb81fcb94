"""CLIP score: how well images agree with their captions, by any CLIP folder the user names."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from memfast.measuring.networks.backbones import MissingNetwork

CHUNK = 64


class ClipScorer:
    """A transformers CLIP folder: images and captions in one feature space.

    `name` is the folder's, and goes wherever the score goes: scores of two CLIPs never compare.
    Raises MissingNetwork when there is no such folder.
    """

    def __init__(self, folder: str | None, device: torch.device | None = None) -> None:
        if folder is None or not (Path(folder) / "config.json").is_file():
            raise MissingNetwork(
                f"clip: no CLIP folder ({Path(folder or 'none given').name}); pass the folder of a "
                "transformers CLIPModel as --weights clip=FOLDER"
            )
        from transformers import AutoTokenizer, CLIPModel

        self.name, self.device = Path(folder).name, device or torch.device("cpu")
        self.model: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.model.to(self.device)
        self.model.requires_grad_(False)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.statistics = _pixel_statistics(Path(folder))

    @torch.no_grad()
    def image_features(
        self, images: Float[Tensor, "images 3 height width"]
    ) -> Float[Tensor, "images features"]:
        """Unit features of images in [0, 1]; resized to the network's square input."""
        size = self.model.config.vision_config.image_size
        mean, std = (
            torch.tensor(values, device=self.device)[:, None, None] for values in self.statistics
        )
        features = []
        for chunk in images.split(CHUNK):
            resized = F.interpolate(
                chunk.to(self.device), size=(size, size), mode="bicubic", antialias=True
            )
            pixels = (resized.clamp(0, 1) - mean) / std
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            features.append(F.normalize(self.model.visual_projection(pooled), dim=-1).cpu())
        return torch.cat(features)

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
        """Unit features of captions, truncated to the network's length."""
        length = self.model.config.text_config.max_position_embeddings
        features = []
        for start in range(0, len(texts), CHUNK):
            tokens = self.tokenizer(
                list(texts[start : start + CHUNK]),
                padding="max_length",
                truncation=True,
                max_length=length,
                return_tensors="pt",
            )
            ids = tokens.input_ids.to(self.device)
            pooled = self.model.text_model(input_ids=ids).pooler_output
            features.append(F.normalize(self.model.text_projection(pooled), dim=-1).cpu())
        return torch.cat(features)

    def score(
        self, images: Float[Tensor, "images 3 height width"], texts: Sequence[str]
    ) -> Float[Tensor, " images"]:
        """Cosine of each image with its own caption (Hessel et al. 2021, without their 2.5)."""
        return (self.image_features(images) * self.text_features(texts)).sum(1)

    def retrieval(
        self, images: Float[Tensor, "images 3 height width"], texts: Sequence[str], top: int = 1
    ) -> float:
        """The share of images whose own caption is among the `top` nearest of all captions."""
        similarity = self.image_features(images) @ self.text_features(texts).T
        own = similarity.diagonal()[:, None]
        return float(((similarity > own).sum(1) < top).double().mean())


def _pixel_statistics(folder: Path) -> tuple[list[float], list[float]]:
    file = folder / "preprocessor_config.json"
    if file.is_file():
        settings = json.loads(file.read_text())
        return settings["image_mean"], settings["image_std"]
    return [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
