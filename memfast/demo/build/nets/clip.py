"""A tiny CLIP: its text tower conditions the denoiser, the whole of it scores pictures."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from memfast.demo.build.data.sets import Sets, draw_fresh
from memfast.demo.build.data.tokenizer import LENGTH
from memfast.demo.build.nets.autoencoder import to_tensor
from memfast.demo.build.nets.training import cosine, fit

BATCH, STEPS, PEAK = 128, 500, 1e-3
HORIZON = 1600  # of the falling rate; retrieval is good enough long before


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Returns the untrained model for 32 x 32 pictures in [-1, 1]."""
    torch.manual_seed(0)
    shape = {"num_attention_heads": 4, "hidden_size": 128}
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": LENGTH, **shape, **ends}
    text |= {"num_hidden_layers": 2, "intermediate_size": 512}
    vision = {"image_size": 32, "patch_size": 4, **shape}
    vision |= {"num_hidden_layers": 3, "intermediate_size": 256}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def tokens(tokenizer: CLIPTokenizer, captions: list[str], padding: str = "max_length") -> Tensor:
    """Returns token ids [n, tokens]; `padding="longest"` is quicker and pools the same vector."""
    return tokenizer(
        captions, padding=padding, truncation=True, max_length=LENGTH, return_tensors="pt"
    ).input_ids


def batches(tokenizer: CLIPTokenizer, sets: Sets, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (token ids, pictures) of fresh pairs, with one in sixteen from the trained sets."""
    known = sets.trained
    for step in range(start, 1 << 30):
        rng = np.random.default_rng([2, step])
        pairs = list(draw_fresh(sets.wide, BATCH - BATCH // 16, rng))
        pairs += [
            (known[i].prompt, known[i].image)
            for i in rng.choice(len(known), BATCH // 16, replace=False)
        ]
        captions, images = zip(*pairs, strict=True)
        yield tokens(tokenizer, list(captions), "longest"), to_tensor(list(images))


@torch.no_grad()
def retrieval(
    model: CLIPModel,
    tokenizer: CLIPTokenizer,
    captions: list[str],
    images: Float[Tensor, "n 3 h w"],
) -> tuple[float, float]:
    """Returns the shares of pictures whose own caption ranks first, and among the first five.

    Picture i has caption i; captions beyond the pictures only make the choice harder.
    """
    output = model(input_ids=tokens(tokenizer, captions, "longest"), pixel_values=images)
    own = output.logits_per_image.diagonal()[:, None]
    rank = (output.logits_per_image > own).sum(1)
    return float((rank < 1).float().mean()), float((rank < 5).float().mean())


def train_clip(tokenizer: CLIPTokenizer, sets: Sets, work: Path, steps: int = STEPS) -> CLIPModel:
    """Returns both towers after contrastive training (Radford et al. 2021) on training pairs."""
    model = build_clip(tokenizer)
    held = sets.examples["heldout"]
    captions, images = [x.prompt for x in held], to_tensor([x.image for x in held])

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        return model(input_ids=batch[0], pixel_values=batch[1], return_loss=True).loss

    def watch(average: CLIPModel) -> str:
        first, five = retrieval(average, tokenizer, captions, images)
        return f"held-out {len(held)}-way retrieval top-1 {first:.3f} top-5 {five:.3f}"

    return fit(
        model,
        lambda start: batches(tokenizer, sets, start),
        loss,
        steps=steps,
        schedule=cosine(HORIZON, PEAK),
        checkpoint=work / "clip.pt",
        watch=watch,
    )
