"""Cases from prompt lists, scores of the nearest training image, and rates by group."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from memfast.errors import InputError
from memfast.images import fit, read_image
from memfast.measuring.cases import Case, Cases, load_cases
from memfast.measuring.distances import l2_ratio, ssim
from memfast.measuring.replication import replication, score_images
from memfast.measuring.similarity import toolbox
from memfast.prompts import read_prompts


def pictures(count: int, side: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def case(name: str, images: torch.Tensor, group: int, template: bool = False) -> Case:
    return Case(name, name, images, group, template)


def test_scores_are_those_of_the_nearest_training_image():
    own = pictures(5)
    cases = Cases((case("two", own[:2], 0), case("none", own[:0], 1), case("one", own[2:3], 2)))
    others = torch.cat([own, pictures(4, seed=3)])
    images = torch.stack([own[1] * 0.9, own[3], own[4]])
    scores = score_images(toolbox(("ssim", "l2_ratio", "ssim_masked")), images, cases, others)
    torch.testing.assert_close(scores["ssim"][0], ssim(images[:1], own[1:2])[0])
    torch.testing.assert_close(scores["ssim"][2], ssim(images[2:], own[2:3])[0])
    torch.testing.assert_close(scores["l2_ratio"][0], l2_ratio(images[:1], own[1:2], others)[0])
    assert scores["ssim"].isnan().tolist() == [False, True, False]
    assert scores["ssim_masked"].isnan().all()


def test_masked_metrics_judge_templates_only():
    shared, varying = pictures(1, 32), pictures(4, 32, seed=1)
    template = varying.clone()
    template[:, :, :, :20] = shared[:, :, :, :20]
    image = pictures(1, 32, seed=2)
    image[:, :, :, :20] = shared[:, :, :, :20]
    cases = Cases((case("template", template, 0, True), case("plain", varying[:1], 1)))
    tools = toolbox(("l2_ratio", "tiled_l2", "tiled_l2_masked"))
    scores = score_images(tools, torch.cat([image, image]), cases, torch.cat([template, varying]))
    assert scores["tiled_l2_masked"][0] == 0
    assert scores["tiled_l2"][0] > 0.3
    assert scores["tiled_l2_masked"][1].isnan()


def test_rates_take_the_best_seed_and_split_templates():
    own = pictures(4)
    cases = Cases(tuple(case(str(k), own[k : k + 1], k // 2, k == 3) for k in range(4)))
    strangers = pictures(4, seed=5)
    first, second = strangers.clone(), strangers.clone()
    first[0], second[3] = own[0], own[3]
    outcome = replication(toolbox(("ssim",)), iter([first, second]), cases, own)
    assert outcome.scores["ssim"].shape == (2, 4)
    assert outcome.replicated("ssim").tolist() == [1, 0, 0, 1]
    template = torch.tensor([c.template for c in cases.cases])
    rates = [outcome.rate("ssim", which) for which in (None, ~template, template)]
    assert [rate.value for rate in rates] == pytest.approx([0.5, 1 / 3, 1.0])
    assert rates[0].groups == 2


def write_list(folder, rows):
    (folder / "list.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return read_prompts(folder / "list.jsonl")


def save(folder, name, pixels):
    array = (pixels.permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(array).save(folder / name)


def test_cases_of_a_list(tmp_path):
    images = (pictures(4) * 255).round() / 255
    for k in range(3):
        save(tmp_path, f"{k}.png", images[k])
    save(tmp_path, "wide.png", torch.rand(3, 20, 40))
    rows = [
        {"id": "a", "prompt": "red heart", "image": "0.png", "group": "g1"},
        {"id": "b", "prompt": "blue cup", "image": "1.png", "group": "g1"},
        {"id": "c", "prompt": "old key", "image": "2.png"},
        {"id": "d", "prompt": "old key", "image": "0.png"},
        {"id": "e", "prompt": "tall tree", "image": "absent.png", "label": "TM"},
        {"id": "f", "prompt": "grey stone", "image": "wide.png"},
        {"id": "g", "prompt": "green field"},
    ]
    cases = load_cases(write_list(tmp_path, rows), (16, 16))
    assert cases.ids == ["a", "b", "c", "e", "f", "g"]
    assert [len(c.images) for c in cases.cases] == [1, 1, 2, 0, 1, 0]
    assert cases.groups == [0, 0, 0, 1, 2, 3]  # a, b by the list; a, c by a shared picture
    assert [c.template for c in cases.cases] == [False, False, True, True, False, False]
    torch.testing.assert_close(cases.cases[0].images[0], images[0])
    notes = "\n".join(cases.notes)
    assert "e (line 5): image absent.png: no such file" in notes
    assert cases.notes[-1] == "training images: 1 cropped"
    assert "g (line 7): no local training image" in notes
    assert len(load_cases(write_list(tmp_path, rows), (16, 16), limit=2)) == 2


def test_fit_takes_the_central_square():
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 10:30] = 255
    image = Image.fromarray(pixels)
    assert np.array_equal(fit(image, (20, 20)), np.ones((3, 20, 20)))
    assert fit(image, (8, 8)).shape == (3, 8, 8)


def test_an_unreadable_image_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"bad\.png: cannot be read"):
        read_image(tmp_path / "bad.png")
