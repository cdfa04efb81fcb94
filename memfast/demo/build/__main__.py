"""`python -m memfast.demo.build --out DIR`: makes the embedded model, stage by stage.

A stage that has left its result in the work folder is not run again; one that was interrupted
resumes. The same seed on the same kind of machine gives the same model.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from memfast.demo.build import release
from memfast.demo.build.data.compose import caption
from memfast.demo.build.data.glyphs import choose, read_glyphs
from memfast.demo.build.data.sets import Sets, build_sets
from memfast.demo.build.data.tokenizer import build_tokenizer
from memfast.demo.build.nets import autoencoder, clip, denoiser


def training_captions(sets: Sets) -> list[str]:
    """Returns every caption that is trained on, sorted: no held-out one."""
    return sorted({caption(glyph.name, word) for glyph, word in sets.wide})


def make_tokenizer(sets: Sets, work: Path) -> None:
    build_tokenizer(training_captions(sets)).save_pretrained(work / "tokenizer")


def make_autoencoder(sets: Sets, work: Path) -> None:
    autoencoder.train_autoencoder(sets, work).save_pretrained(work / "vae-joint")


def make_clip(sets: Sets, work: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    clip.train_clip(tokenizer, sets, work).save_pretrained(work / "clip")


def make_denoiser(sets: Sets, work: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    text = release.load_text(work / "clip")
    vae = AutoencoderKL.from_pretrained(work / "vae-joint")
    denoiser.train_denoiser(sets, vae, text, tokenizer, work).save_pretrained(work / "unet")


def make_decoder(sets: Sets, work: Path) -> None:
    vae = AutoencoderKL.from_pretrained(work / "vae-joint")
    autoencoder.train_decoder(vae, sets, work).save_pretrained(work / "vae")


# result in the work folder: the stage that makes it, in an order that has every need before
STAGES: dict[str, Callable[[Sets, Path], None]] = {
    "tokenizer": make_tokenizer,
    "vae-joint": make_autoencoder,
    "clip": make_clip,
    "unet": make_denoiser,
    "vae": make_decoder,
}


def main() -> None:
    """Runs the stages that lack a result, or one by name, then writes the package data."""
    parser = argparse.ArgumentParser(prog="python -m memfast.demo.build", description=__doc__)
    parser.add_argument("--out", type=Path, help="the package data; replaced")
    parser.add_argument("--work", type=Path, default=Path("build/demo"), help="checkpoints")
    parser.add_argument("--stage", choices=STAGES, help="run this stage alone, write no data")
    options = parser.parse_args()
    if (options.out is None) == (options.stage is None):
        parser.error("give --out DIR for the whole build, or --stage NAME for one part")
    options.work.mkdir(parents=True, exist_ok=True)
    sets = build_sets(choose(read_glyphs()))
    for name in [options.stage] if options.stage else STAGES:
        if not (options.work / name).exists():
            STAGES[name](sets, options.work)
    if options.out:
        release.write_data(sets, options.work, options.out)


if __name__ == "__main__":
    main()
