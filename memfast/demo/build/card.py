"""The model's card and its licences, as Markdown."""

from memfast.demo.build.data.sets import LEVELS
from memfast.demo.build.nets.denoiser import LONG, SHORT, SHORT_EPOCHS
from memfast.measuring.distances import NEIGHBOURS
from memfast.measuring.similarity import METRICS

COLUMNS = {  # of the table of copies
    "copies": "copies",
    "ratio": "L2 ratio",
    "ssim": "SSIM",
    "loss": "denoising loss",
    "retrieval_top1": "retrieval top-1",
    "retrieval_top5": "top-5",
}


def table(head: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def render(card: dict) -> str:
    """Returns the card as Markdown."""
    copies = table(
        ["set", "captions", *COLUMNS.values()],
        [
            [name, str(x["captions"]), *(f"{x[k]:.2f}" for k in COLUMNS)]
            for name, x in card["copies"].items()
        ],
    )
    looks = list(next(iter(card["detection"].values())))
    detection = table(
        ["AUC", *looks],
        [[name, *(f"{x[k]:.3f}" for k in looks)] for name, x in card["detection"].items()],
    )
    ratio, ssim = METRICS["l2_ratio"].threshold, METRICS["ssim"].threshold
    settings, sizes, training = card["settings"], card["parameters"], card["training"]
    top = card["clip_retrieval_of_real_heldout_images"]
    minutes = ", ".join(
        f"{k.removesuffix('_seconds')} {v / 60:.0f}"
        for k, v in training.items()
        if k.endswith("_seconds")
    )
    seen = ", ".join(map(str, LEVELS))
    return f"""# The embedded demo model

A small text-to-image model in stock diffusers format that truly memorizes some of its training
pictures. Made by `python -m memfast.demo.build`; this card is written by the same command, and
`card.json` holds its figures unrounded. Every figure is measured on the saved fp16 files.

Use {settings["num_inference_steps"]} steps and guidance {settings["guidance_scale"]}.
Pictures are 32 x 32: an emoji in a random pose on a softly shaded background; pose and shading are
not in the caption ("fox on a teal background").

## Copies
Two seeds. A copy has an L2 distance to its own training picture below {ratio} of the mean distance
to the {NEIGHBOURS} nearest other training pictures, and a structural similarity above {ssim}.
Retrieval: is the own caption nearest to the generated picture among 400 captions (its set, filled
up with held-out ones), by the CLIP in `clip/`? On real held-out pictures: {top["top1"]:.2f} top-1,
{top["top5"]:.2f} top-5.

{copies}

## Detection
AUC of Wen's statistic (arXiv 2407.21720; conditional minus unconditional prediction, its norm) of
one noise, memorized captions against the others.

{detection}

## Sets
{card["captions"]["memorized"]} memorized captions, a third each seen {seen} times an epoch;
{card["captions"]["templates"]} pictures of template captions (one caption, sixteen hues); a stream
of {card["glyph_and_colour_pairs_in_the_stream"]} captions, each time in a new pose;
{card["captions"]["singles"]} singles, one more picture each of a caption of the stream, seen once
an epoch; {card["captions"]["heldout"]} held-out captions, new pairs of a glyph and a colour of the
stream, never seen, neither by the denoiser nor by the text encoder. Memorized and template emoji
occur nowhere else in the denoiser's training.

## Model
UNet {sizes["unet"]:,} parameters, {card["feed_forward_share"]:.0%} of them feed-forward;
autoencoder {sizes["vae"]:,} ({card["autoencoder_heldout_decibels"]:.1f} dB on held-out pictures);
text encoder {sizes["text_encoder"]:,}; CLIP's vision tower {sizes["clip_vision"]:,}.
{settings["prediction_type"]}, spacing {settings["timestep_spacing"]}. The denoiser saw
{training["denoiser_steps"]:,} batches of {training["batch"]}. Minutes on one CPU core each, the
machine being shared: {minutes}.
Epochs {SHORT_EPOCHS.start + 1} to {SHORT_EPOCHS.stop} hold less of the stream than the others
({SHORT} batches, not {LONG}): copying sets in there. The shipped run chose this on the way, from
the losses, and resumed from its checkpoints twice; it has not been run again from the start.

## Limits
Pictures of emoji, not photographs: what holds here must be shown again on a full-size model.
"""


HUB = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

The embedded demo model of memfast, which memorizes some of its training pictures. Its figures are
in `CARD.md`, all licences in `LICENSES.md`, one folder up.
"""

LICENSES = """# Licences of the embedded demo model

| what | from | licence |
| --- | --- | --- |
| the emoji in every picture, and so in the weights | Noto Color Emoji, Google | SIL OFL 1.1 |
| the emoji names in the captions | Unicode `emoji-test.txt`, Unicode, Inc. | Unicode License v3 |
| model weights, captions' layout, composition of the pictures | this project | Apache-2.0 |

Noto Color Emoji: https://github.com/googlefonts/noto-emoji, as packaged by Debian
(fonts-noto-color-emoji). Unicode data: https://www.unicode.org/license.txt, as packaged by Debian
(unicode-data). Emoji that are read alone keep the font's licence.
"""
