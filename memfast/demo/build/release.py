"""Puts the trained parts together in the layout of the package data, weights in float16."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from memfast.demo.build.card import HUB, LICENSES, render
from memfast.demo.build.data.sets import Sets, write_sets
from memfast.demo.build.figures import measure_card
from memfast.demo.build.measure import GUIDANCE, INFERENCE_STEPS
from memfast.demo.build.nets.denoiser import build_scheduler
from memfast.pipelines.schedule import Schedule, remember

PREPROCESSOR = {  # what the CLIP takes: 32 x 32 pixels in [-1, 1]
    "image_processor_type": "CLIPImageProcessor",
    "size": {"height": 32, "width": 32},
    "crop_size": {"height": 32, "width": 32},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def load_text(folder: Path) -> CLIPTextModel:
    """Returns the text tower of the CLIP in `folder`, equal weights."""
    whole = CLIPModel.from_pretrained(folder)
    text = CLIPTextModel(whole.config.text_config)
    text.load_state_dict(whole.text_model.state_dict())
    return text.eval()


def assemble(
    unet: UNet2DConditionModel, vae: AutoencoderKL, text: CLIPTextModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """Returns the stock pipeline of the trained parts, with the scheduler of their training and
    the schedule that the card's figures are of."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    remember(pipeline, Schedule(INFERENCE_STEPS, GUIDANCE))
    return pipeline


def write_weights(work: Path, out: Path) -> None:
    """Writes `pipeline/` and `clip/` under `out`."""
    pipeline = assemble(
        UNet2DConditionModel.from_pretrained(work / "unet"),
        AutoencoderKL.from_pretrained(work / "vae"),
        load_text(work / "clip"),
        CLIPTokenizer.from_pretrained(work / "tokenizer"),
    )
    pipeline.to(torch.float16).save_pretrained(out / "pipeline")
    CLIPModel.from_pretrained(work / "clip").to(torch.float16).save_pretrained(out / "clip")
    pipeline.tokenizer.save_pretrained(out / "clip")
    path = out / "clip" / "preprocessor_config.json"
    path.write_text(json.dumps(PREPROCESSOR, indent=1) + "\n")


def write_data(sets: Sets, work: Path, out: Path) -> None:
    """Replaces `out` by the whole of the package data, cards included."""
    shutil.rmtree(out, ignore_errors=True)
    write_sets(sets, out)
    write_weights(work, out)
    card = measure_card(out, sets, work)
    (out / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    (out / "CARD.md").write_text(render(card))
    (out / "LICENSES.md").write_text(LICENSES)
    (out / "pipeline" / "README.md").write_text(HUB)
