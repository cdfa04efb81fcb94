"""Distances against scikit-image, float64 scipy and hand-made cases."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from skimage.metrics import structural_similarity

from memfast.measuring import distances


def pictures(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def halfway(images: torch.Tensor, seed: int = 1) -> torch.Tensor:
    return (
        images + 0.3 * torch.rand(images.shape, generator=torch.Generator().manual_seed(seed))
    ) / 1.3


@pytest.mark.parametrize(("height", "width"), [(11, 11), (32, 32), (37, 53)])
def test_ssim_equals_scikit_image(height, width):
    first = pictures(3, height, width)
    second = halfway(first)
    expected = [
        structural_similarity(
            a.numpy().astype(np.float64),
            b.numpy().astype(np.float64),
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(distances.ssim(first, second).numpy(), expected, atol=2e-5)


def reference_ms_ssim(first: np.ndarray, second: np.ndarray, scales: int) -> float:
    """Wang 2003 in float64 with scipy's correlation, one channel-mean map a scale."""
    axis = np.arange(11) - 5
    window = np.exp(-(axis**2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(x):
        for dim in (1, 2):
            x = correlate1d(x, window, axis=dim, mode="constant")
        return x[:, 5:-5, 5:-5]

    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:scales]
    weights /= weights.sum()
    result = 1.0
    for scale in range(scales):
        mean1, mean2 = blur(first), blur(second)
        var1, var2 = blur(first**2) - mean1**2, blur(second**2) - mean2**2
        covariance = blur(first * second) - mean1 * mean2
        value = (2 * covariance + 9e-4) / (var1 + var2 + 9e-4)
        if scale == scales - 1:
            value = value * (2 * mean1 * mean2 + 1e-4) / (mean1**2 + mean2**2 + 1e-4)
        result *= max(value.mean(), 0) ** weights[scale]
        height, width = first.shape[1] // 2 * 2, first.shape[2] // 2 * 2
        first, second = (
            x[:, :height, :width].reshape(3, height // 2, 2, width // 2, 2).mean((2, 4))
            for x in (first, second)
        )
    return result


@pytest.mark.parametrize(("side", "scales"), [(11, 1), (32, 2), (45, 3), (177, 5)])
def test_ms_ssim_equals_float64_reference(side, scales):
    assert distances.scales_of(side, side) == scales
    first = pictures(2, side, side)
    second = halfway(first)
    expected = [
        reference_ms_ssim(a.double().numpy(), b.double().numpy(), scales)
        for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(distances.ms_ssim(first, second).numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("measure", [distances.ssim, distances.ms_ssim])
def test_structure_of_equal_images_is_one(measure):
    images = pictures(2, 32, 32)
    torch.testing.assert_close(measure(images, images), torch.ones(2))


@pytest.mark.parametrize("measure", [distances.ssim, distances.ms_ssim])
def test_structure_refuses_images_smaller_than_its_window(measure):
    with pytest.raises(ValueError, match="at least 11 x 11 pixels, got 10 x 40"):
        measure(pictures(1, 10, 40), pictures(1, 10, 40))


def test_tiled_l2_by_hand():
    own = torch.zeros(1, 3, 8, 8)
    image = own.clone()
    image[0, :, 0, 0] = 1.0  # one of the four pixels of the first 2 x 2 tile
    image[0, :, 4:6, 4:6] = 0.4  # all of another
    torch.testing.assert_close(distances.tiled_l2(image, own), torch.tensor([0.5]))


def test_tiled_l2_sees_a_local_difference_that_the_plain_distance_does_not():
    own = pictures(1, 32, 32)
    image = own.clone()
    image[:, :, :8, :8] = 1 - image[:, :, :8, :8]
    plain = (image - own).square().mean().sqrt()
    torch.testing.assert_close(distances.tiled_l2(image, own)[0], 4 * plain)


def test_ratio_by_hand_leaves_out_the_own_image_and_its_duplicates():
    own = torch.full((1, 3, 12, 12), 0.5)
    image = torch.full((1, 3, 12, 12), 0.6)
    others = torch.stack([torch.full((3, 12, 12), v) for v in (0.5, 0.51, 0.9, 0.2, 1.0)])
    expected = 0.1 / ((0.3 + 0.4 + 0.4) / 3)
    torch.testing.assert_close(distances.l2_ratio(image, own, others), torch.tensor([expected]))


def test_ratio_excludes_an_identical_image_of_a_real_size():
    """The expanded form of the distance leaves twins apart and would count them as others."""
    own = pictures(4, 64, 64)
    far = pictures(6, 64, 64, seed=9)
    alone = distances.l2_ratio(halfway(own), own, far)
    torch.testing.assert_close(
        distances.l2_ratio(halfway(own), own, torch.cat([own[1:2], far]))[1], alone[1]
    )
    assert (distances.root_mean_square(own, own).diagonal() == 0).all()


def test_ratio_without_others_is_unknown():
    own = pictures(2, 12, 12)
    assert distances.l2_ratio(own, own, own[:0]).isnan().all()


def test_ratio_takes_the_fifty_nearest():
    own = torch.zeros(1, 3, 4, 4)
    image = torch.full((1, 3, 4, 4), 0.1)
    others = torch.stack([torch.full((3, 4, 4), 0.1 + 0.01 * k) for k in range(1, 81)])
    expected = 0.1 / np.mean([0.01 * k for k in range(1, 51)])
    torch.testing.assert_close(
        distances.l2_ratio(image, own, others), torch.tensor([expected], dtype=torch.float32)
    )


def masked_cases():
    others = pictures(5, 32, 32, seed=5)
    return {
        "tiled_l2": distances.tiled_l2,
        "ssim": distances.ssim,
        "ms_ssim": distances.ms_ssim,
        "l2_ratio": lambda image, own, mask: distances.l2_ratio(image, own, others, mask),
    }


@pytest.mark.parametrize("name", masked_cases())
def test_a_full_mask_changes_nothing(name):
    measure = masked_cases()[name]
    own = pictures(3, 32, 32)
    image = halfway(own)
    full = torch.ones(3, 32, 32, dtype=torch.bool)
    torch.testing.assert_close(measure(image, own, full), measure(image, own, None))


@pytest.mark.parametrize("name", ["tiled_l2", "ssim", "l2_ratio"])
def test_a_mask_hides_what_it_leaves_out(name):
    measure = masked_cases()[name]
    own = pictures(2, 32, 32)
    image = own.clone()
    image[:, :, :, 20:] = pictures(2, 32, 12, seed=3)
    mask = torch.ones(2, 32, 32, dtype=torch.bool)
    mask[:, :, 15:] = False  # SSIM's windows reach five pixels beyond their centre
    same = measure(own, own, None)
    torch.testing.assert_close(measure(image, own, mask), same, atol=1e-6, rtol=0)
    assert not torch.allclose(measure(image, own, None), same, atol=0.05)
