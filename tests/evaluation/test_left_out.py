"""Captions whose images are not numbers: noted by name, whichever figure they fall out of."""

import torch

from memfast.evaluation.piece import Piece
from memfast.evaluation.protocol import Outcome
from memfast.evaluation.run import evaluate
from memfast.measuring.replication import broken
from tests.support.planted import SCHEDULE


def test_broken_images_are_named_and_counted() -> None:
    seeds = [torch.rand(3, 3, 4, 4) for _ in range(2)]
    seeds[0][1, 0, 0, 0] = torch.nan
    for seed in seeds:
        seed[2, 2, 3, 3] = torch.inf
    assert broken(seeds, ["a", "b", "c"], "original") == [
        "original: b: 1 of 2 images are not finite and do not count",
        "original: c: 2 of 2 images are not finite and do not count",
    ]


def test_an_evaluation_notes_them(tiny_pipeline, memorized_set, reference_set, monkeypatch) -> None:
    decode = tiny_pipeline.vae.decode

    def poisoned(*arguments, **named):
        found = decode(*arguments, **named)
        found[0][0, 0, 0, 0] = torch.nan  # of the first image of each batch
        return found

    monkeypatch.setattr(tiny_pipeline.vae, "decode", poisoned)
    found = evaluate(
        tiny_pipeline,
        memorized_set,
        reference_set,
        repeats=1,
        seeds=1,
        metrics=("ssim",),
        features=None,
        **SCHEDULE,
    )
    first = memorized_set.ids[0]
    says = f"original, repetition 1: {first}: 1 of 1 images are not finite and do not count"
    assert says in found.notes
    assert any("repetition 1, reference: " in note for note in found.summary()["notes"])


def test_a_piece_keeps_all_of_an_outcome(tmp_path) -> None:
    rows = [torch.tensor([0.1, torch.nan]), torch.tensor([torch.inf, -0.0])]
    outcome = Outcome("a: b/c", "control", "weights", notes=["a note"], tested=[0, 1])
    outcome.plain["ssim"], outcome.attacked["l2/ratio"] = rows, rows[:1]
    outcome.note(fid=float("nan"), kid=0.1)
    outcome.pictures = torch.rand(4, 3, 2, 2)[1:]
    made = {"reference": outcome.pictures, "heldout": torch.empty(0)}
    Piece({outcome.name: outcome}, made).save(tmp_path / "p", "run")
    found = Piece.load(tmp_path / "p", "run")
    again = found.outcomes[outcome.name]
    assert str(vars(again)) == str(vars(outcome))
    assert torch.equal(again.pictures, outcome.pictures)
    assert {name: images.shape for name, images in found.made.items()} == {
        name: images.shape for name, images in made.items()
    }
