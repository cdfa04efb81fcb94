"""`python -m memfast.demo.build.further prepare | train | unpack`: further models that memorize.

`prepare` reads the glyphs where their font is, `train` runs on any machine, `unpack` makes of its
tars folders in the layout of the embedded model's data.
"""

import argparse
import sys
import traceback
from pathlib import Path
from time import perf_counter

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image

from memfast.demo.build.data.glyphs import Glyph, choose, read_glyphs
from memfast.demo.build.further.recipes import RECIPES
from memfast.demo.build.further.record import card_of, measure_copies, unpack, write_tar
from memfast.demo.build.further.training import Training

GLYPHS = "glyphs.npz"


def prepare(folder: Path) -> None:
    """Writes the chosen glyphs: every recipe's sets follow from them and its seed."""
    folder.mkdir(parents=True, exist_ok=True)
    glyphs = choose(read_glyphs())
    np.savez_compressed(
        folder / GLYPHS,
        names=np.array([x.name for x in glyphs]),
        images=np.stack([np.asarray(x.image) for x in glyphs]),
    )


def prepared(folder: Path) -> list[Glyph]:
    """Returns the glyphs that `prepare` wrote."""
    with np.load(folder / GLYPHS) as held:
        pairs = zip(held["names"].tolist(), held["images"], strict=True)
        return [Glyph(name, Image.fromarray(image)) for name, image in pairs]


def train(options: argparse.Namespace) -> None:
    """Trains side by side, block by block; each model's tar is there as soon as it is trained."""
    torch.set_num_threads(options.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    for folder in (options.out, options.work):
        folder.mkdir(parents=True, exist_ok=True)
    glyphs, device = prepared(options.prepared), torch.device(options.device)
    began = perf_counter()
    until = began + options.seconds if options.seconds else None
    running = []
    for name in options.recipes:
        how = {"steps": options.steps, "workers": options.workers}
        with saying(name):
            running.append(Training(name, RECIPES[name], glyphs, options.work, device, **how))
    print(f"ready after {perf_counter() - began:.1f} s", flush=True)
    trained = []
    while running:
        for training in [*running]:
            with saying(training.name) as failure:
                if not training.finished and not (until and perf_counter() > until):
                    training.advance(until)
                    continue
                running.remove(training)
                trained.append((training, *finish(training, options)))
            if failure and training in running:
                running.remove(training)
    for training, model, card in trained if options.captions else []:
        with saying(training.name):
            driver = training.driver.with_model(model)
            card["copies"] = measure_copies(
                driver, training.recipe, training.sets, options.captions
            )
            write_tar(model, card, options.out / f"{training.name}.tar")
            shares = {k: round(v["copies"], 3) for k, v in card["copies"].items()}
            print(f"{training.name} copies {shares}", flush=True)


def finish(training: Training, options: argparse.Namespace) -> tuple:
    """Returns the trained model and its card, after writing both."""
    model = training.finish()
    told = {
        "denoiser_steps": training.step,
        "batch": training.recipe.batch,
        "denoiser_seconds": round(training.seconds, 1),
        "device": options.device,
    }
    card = card_of(training.recipe, model, training.sets, told)
    write_tar(model, card, options.out / f"{training.name}.tar")
    training.checkpoint.unlink(missing_ok=True)
    print(f"{training.name} trained: {told}", flush=True)
    return model, card


class saying:
    """Within the context an error is printed, not raised: the other trainings go on. True after
    one."""

    def __init__(self, name: str) -> None:
        self.name, self.failed = name, False

    def __enter__(self) -> "saying":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self.failed = isinstance(error, Exception)
        if self.failed:
            print(f"{self.name} failed", file=sys.stderr)
            traceback.print_exception(error)
        return self.failed

    def __bool__(self) -> bool:
        return self.failed


def main() -> None:
    """Runs one of the parts."""
    parser = argparse.ArgumentParser(
        prog="python -m memfast.demo.build.further", description=__doc__
    )
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("prepare", "train", "unpack"):
        part = parts.add_parser(name)
        part.add_argument("--prepared", type=Path, required=True, help="the glyphs' folder")
        if name == "prepare":
            continue
        part.add_argument("--out", type=Path, required=True)
        if name == "unpack":
            part.add_argument("tars", type=Path, nargs="+")
            continue
        part.add_argument("--recipes", nargs="+", choices=RECIPES, default=[*RECIPES])
        part.add_argument("--work", type=Path, default=Path("build/further"), help="checkpoints")
        part.add_argument("--device", default="cpu")
        part.add_argument("--seconds", type=float, help="of training, all together")
        part.add_argument("--steps", type=int, help="at most; else as the recipe says")
        part.add_argument("--workers", type=int, default=1, help="processes that draw, a model")
        part.add_argument("--captions", type=int, default=64, help="of a set, that the card judges")
        part.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    if options.part == "prepare":
        prepare(options.prepared)
    elif options.part == "train":
        train(options)
    else:
        for path in options.tars:
            unpack(path, prepared(options.prepared), options.out / path.stem)


if __name__ == "__main__":
    main()
