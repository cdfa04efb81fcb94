"""What a further model's card states, and its files: one tar from where it is trained, then the
same folder as the embedded model's."""

import hashlib
import json
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import torch

from memfast.demo.build.data.glyphs import Glyph
from memfast.demo.build.data.sets import Sets, write_sets
from memfast.demo.build.figures import SEEDS, count, feed_forward_share
from memfast.demo.build.further.pipelines import CLIP
from memfast.demo.build.further.recipes import RECIPES, Recipe
from memfast.demo.build.measure import GUIDANCE, INFERENCE_STEPS, likeness, loss, pixels
from memfast.pipelines.loading import replace_denoiser

WEIGHTS, CARD = "denoiser", "card.json"


def digest(sets: Sets) -> str:
    """Returns what tells these captions and pictures from all others."""
    found = hashlib.sha256()
    for example in (x for examples in sets.examples.values() for x in examples):
        found.update(example.prompt.encode())
        found.update(example.image.tobytes())
    return found.hexdigest()


def card_of(recipe: Recipe, model: Any, sets: Sets, training: dict[str, Any]) -> dict[str, Any]:
    """Returns the card without the figures that need pictures."""
    told = {k: v for k, v in vars(recipe).items() if k != "kind"}
    return {
        "recipe": {"kind": recipe.kind.__name__, **told},
        "settings": {"num_inference_steps": INFERENCE_STEPS, "guidance_scale": GUIDANCE},
        "parameters": {"denoiser": count(model)},
        "feed_forward_share": feed_forward_share(model),
        "training": training,
        "sets": digest(sets),
    }


@torch.no_grad()
def measure_copies(
    driver: Any, recipe: Recipe, sets: Sets, some: int
) -> dict[str, dict[str, float]]:
    """Returns by level, for singles and for held-out captions, `some` of each: the share of copies
    by L2 ratio and SSIM, both as means too, over SEEDS; and the denoising loss."""
    rows = {f"memorized x{d}": sets.memorized(d) for d in recipe.levels}
    rows |= {"singles x1": sets.examples["singles"], "held-out": sets.examples["heldout"]}
    corpus, table = pixels(sets.trained), {}
    for name, examples in ((name, examples[:some]) for name, examples in rows.items()):
        own, told = pixels(examples), driver.encode([x.prompt for x in examples])
        ids = [x.id for x in examples]
        judged = [likeness(driver.generate(told, ids, seed), own, corpus) for seed in SEEDS]
        table[name] = {
            "captions": len(examples),
            "copies": float(torch.stack([copies for _, copies in judged]).mean()),
            "ratio": float(torch.stack([x["l2_ratio"] for x, _ in judged]).mean()),
            "ssim": float(torch.stack([x["ssim"] for x, _ in judged]).mean()),
            "loss": loss(driver, examples),
        }
    return table


def write_tar(model: Any, card: dict[str, Any], path: Path) -> None:
    """Writes the denoiser in float16 and the card; a killed run leaves the former file whole."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        model.half().save_pretrained(Path(folder) / WEIGHTS)
        model.float()
        (Path(folder) / CARD).write_text(json.dumps(card, indent=1) + "\n")
        part = Path(folder) / "part"
        with tarfile.open(part, "w") as tar:
            tar.add(Path(folder) / WEIGHTS, WEIGHTS)
            tar.add(Path(folder) / CARD, CARD)
        part.replace(path)


def unpack(path: Path, glyphs: list[Glyph], out: Path) -> None:
    """Replaces `out` by a folder in the layout of the embedded model's data, made of a tar.

    The recipe is the tar's name. Raises ValueError where its sets, made again, are not those that
    the model was trained on.
    """
    recipe = RECIPES[path.stem]
    sets = recipe.sets(glyphs)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(path) as tar:
            tar.extractall(folder, filter="data")
        card = json.loads((Path(folder) / CARD).read_text())
        if card["sets"] != digest(sets):
            raise ValueError(f"{path}: trained on other captions or pictures than are made here")
        pipeline: Any = recipe.pipeline()
        plain = getattr(pipeline, "unet", None) or pipeline.transformer
        replace_denoiser(pipeline, type(plain).from_pretrained(Path(folder) / WEIGHTS))
        shutil.rmtree(out, ignore_errors=True)
        write_sets(sets, out)
        pipeline.to(torch.float16).save_pretrained(out / "pipeline")
        shutil.copytree(CLIP, out / "clip")
        (out / CARD).write_text(json.dumps(card, indent=1) + "\n")
