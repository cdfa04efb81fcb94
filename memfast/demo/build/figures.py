"""Every figure of the card, measured on the saved fp16 files."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPModel

from memfast.demo.build import measure
from memfast.demo.build.data.sets import LEVELS, Example, Sets
from memfast.demo.build.nets.autoencoder import decibels, heldout_images
from memfast.demo.build.nets.clip import retrieval
from memfast.demo.build.nets.denoiser import BATCH, STEPS
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.loading import load_pipeline

SEEDS = (0, 1)


def split(sets: Sets) -> dict[str, list[Example]]:
    """Returns the examples by row of the card: memorized levels, singles, held-out captions."""
    rows = {f"memorized x{d}": sets.memorized(d) for d in LEVELS}
    return rows | {"singles x1": sets.examples["singles"], "held-out": sets.examples["heldout"]}


def count(module: torch.nn.Module) -> int:
    """Returns the number of parameters."""
    return sum(p.numel() for p in module.parameters())


def feed_forward_share(denoiser: torch.nn.Module) -> float:
    """Returns the share of the denoiser's parameters that feed-forward blocks hold."""
    blocks = [m for m in denoiser.modules() if type(m).__name__ == "FeedForward"]
    return sum(map(count, blocks)) / count(denoiser)


def measure_copies(
    driver: Driver, rows: dict[str, list[Example]], corpus: measure.Pictures, clip: CLIPModel
) -> tuple[dict[str, dict[str, float]], dict[str, Tensor]]:
    """Returns the figures of each row, and Wen's statistic by row, [n, seeds, steps]."""
    tokenizer, others = driver.pipeline.tokenizer, [x.prompt for x in rows["held-out"]]
    figures, norms = {}, {}
    for name, examples in rows.items():
        own, captions = measure.pixels(examples), [x.prompt for x in examples]
        shots = [measure.generate(driver, examples, seed) for seed in SEEDS]
        judged = [measure.likeness(pictures, own, corpus) for pictures, _ in shots]
        # every set is ranked among equally many captions, held-out ones filling up
        field = captions + [x for x in others if x not in captions][: len(others) - len(captions)]
        first, five = retrieval(clip, tokenizer, field, shots[0][0] * 2 - 1)
        figures[name] = {
            "captions": len(examples),
            "copies": float(torch.stack([copies for _, copies in judged]).mean()),
            "ratio": float(torch.stack([x["l2_ratio"] for x, _ in judged]).mean()),
            "ssim": float(torch.stack([x["ssim"] for x, _ in judged]).mean()),
            "loss": measure.loss(driver, examples),
            "retrieval_top1": first,
            "retrieval_top5": five,
        }
        norms[name] = torch.stack([norm for _, norm in shots], 1)
    return figures, norms


def measure_detection(norms: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Returns the AUC of Wen's statistic, one noise, by level, against singles and held-out."""
    table = {}
    for name in (x for x in norms if x.startswith("memorized")):
        table[name] = {
            f"{label} against {other}": measure.auc(
                look(norms[name]).flatten(), look(norms[other]).flatten()
            )
            for other in ("singles x1", "held-out")
            for label, look in {
                "first step": lambda n: n[..., 0],
                "all steps": lambda n: n.mean(-1),
            }.items()
        }
    return table


def measure_card(data: Path, sets: Sets, work: Path) -> dict:
    """Returns every figure of the card for the pipeline and CLIP saved in `data`."""
    driver = driver_of(load_pipeline(data / "pipeline"))
    unet, vae = driver.model, driver.pipeline.vae
    clip = CLIPModel.from_pretrained(data / "clip", dtype=torch.float32).eval()
    rows = split(sets)
    copies, norms = measure_copies(driver, rows, measure.pixels(sets.trained), clip)
    captions, real = [x.prompt for x in rows["held-out"]], heldout_images(sets)
    top = retrieval(clip, driver.pipeline.tokenizer, captions, real)
    stages = ("autoencoder", "clip", "denoiser", "decoder")
    return {
        "settings": {
            "num_inference_steps": measure.INFERENCE_STEPS,
            "guidance_scale": measure.GUIDANCE,
            "prediction_type": driver.scheduler.config.prediction_type,
            "timestep_spacing": driver.scheduler.config.timestep_spacing,
        },
        "copies": copies,
        "detection": measure_detection(norms),
        "clip_retrieval_of_real_heldout_images": {"top1": top[0], "top5": top[1]},
        "autoencoder_heldout_decibels": decibels(vae, real),
        "parameters": {
            "unet": count(unet),
            "vae": count(vae),
            "text_encoder": count(driver.pipeline.text_encoder),
            "clip_vision": count(clip.vision_model),
        },
        "feed_forward_share": feed_forward_share(unet),
        "training": {"denoiser_steps": STEPS, "batch": BATCH}
        | {f"{s}_seconds": round(seconds(work / f"{s}.pt")) for s in stages},
        "captions": {name: len(x) for name, x in sets.examples.items()},
        "glyph_and_colour_pairs_in_the_stream": len(sets.fresh),
    }


def seconds(checkpoint: Path) -> float:
    """Returns the wall time a training took, as its checkpoint tells."""
    return torch.load(checkpoint, weights_only=True)["seconds"]
