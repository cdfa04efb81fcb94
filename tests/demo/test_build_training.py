"""The build's trainers: one step each, and the loop's promise that a resumed run is the same."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor, nn

from memfast.demo.build import measure, release
from memfast.demo.build.__main__ import training_captions
from memfast.demo.build.data.sets import Sets
from memfast.demo.build.data.tokenizer import build_tokenizer
from memfast.demo.build.nets import autoencoder, clip, denoiser, training
from memfast.pipelines.drivers.table import driver_of


def test_cosine_rises_and_falls() -> None:
    rate = training.cosine(1000, 2e-3)
    assert rate(0) == 2e-5
    assert rate(99) == rate(100) == 2e-3 == max(map(rate, range(1000)))
    assert math.isclose(rate(550), 2e-3 * 0.505)
    assert rate(999) < 2.1e-5


def test_a_plateau_is_flat_whatever_the_number_of_steps() -> None:
    short, long = training.plateau(1000, 2e-3), training.plateau(2000, 2e-3)
    assert [short(i) for i in range(700)] == [long(i) for i in range(700)]
    assert math.isclose(short(850), 1e-3)
    assert short(999) == 2e-5


def walk(start: int) -> Iterator[Tensor]:
    for step in range(start, 100):
        yield torch.from_numpy(np.random.default_rng(step).normal(size=(4, 3))).float()


def fit_line(checkpoint: Path, steps: int) -> nn.Linear:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    return training.fit(
        model,
        walk,
        lambda x: (model(x + 0.1 * torch.randn_like(x)) - x.sum(1, keepdim=True)).square().mean(),
        steps=steps,
        schedule=training.cosine(20, 1e-2, warmup=5),
        checkpoint=checkpoint,
    )


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = fit_line(tmp_path / "whole.pt", 20)
    fit_line(tmp_path / "parts.pt", 7)
    parts = fit_line(tmp_path / "parts.pt", 20)
    assert torch.equal(whole.weight, parts.weight)
    assert torch.equal(whole.bias, parts.bias)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model = nn.Linear(3, 1)
    with pytest.raises(FloatingPointError, match="loss is nan at step 0 of line"):
        training.fit(
            model,
            walk,
            lambda x: model(x).sum() * math.nan,
            steps=1,
            schedule=training.cosine(1, 1e-2),
            checkpoint=tmp_path / "line.pt",
        )


def test_an_epoch_shows_each_picture_as_often_as_its_duplicates(made: Sets) -> None:
    slots = denoiser.EPOCHS.plan(made, 3)
    counts = np.bincount(slots[slots >= 0], minlength=len(made.trained))
    assert counts.tolist() == [x.duplicates for x in made.trained]
    assert not np.array_equal(slots, denoiser.EPOCHS.plan(made, 4))


def test_one_step_of_every_trainer(made: Sets, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(training_captions(made))
    vae = autoencoder.train_autoencoder(made, tmp_path, steps=1)
    encoder = {k: v.clone() for k, v in vae.encoder.state_dict().items()}
    decoder = vae.decoder.conv_in.weight.clone()
    further = autoencoder.train_decoder(vae, made, tmp_path, steps=1)
    assert all(torch.equal(v, further.encoder.state_dict()[k]) for k, v in encoder.items())
    assert not torch.equal(decoder, further.decoder.conv_in.weight)

    model = clip.train_clip(tokenizer, made, tmp_path, steps=1)
    unet = denoiser.train_denoiser(made, vae, model.text_model, tokenizer, tmp_path, steps=1)
    pipeline = release.assemble(unet, vae, model.text_model, tokenizer)
    singles = made.examples["singles"][:3]
    pictures, norms = measure.generate(driver_of(pipeline), singles, steps=2)
    assert pictures.shape == (3, 3, 32, 32)
    assert norms.shape == (3, 2)
    assert pictures.isfinite().all()


def test_a_copy_is_called_a_copy(made: Sets) -> None:
    own, corpus = (measure.pixels(x) for x in (made.examples["memorized"][:5], made.trained))
    scores, copies = measure.likeness((own + 0.02).clamp(0, 1), own, corpus)
    assert copies.tolist() == [1.0] * 5
    assert (scores["ssim"] > 0.9).all()
    _, copies = measure.likeness(own.roll(1, 0), own, corpus)
    assert copies.tolist() == [0.0] * 5


def test_auc_is_mann_whitney() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 31).astype(float), rng.integers(2, 11, 17).astype(float)
    expected = mannwhitneyu(a, b).statistic / (len(a) * len(b))
    assert measure.auc(torch.tensor(a), torch.tensor(b)) == pytest.approx(expected, rel=1e-12)
