import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from memfast.measuring.quality import frechet_distance, kernel_distance


def clouds(first: int, second: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(width, width, generator=generator)
    one = torch.randn(first, width, generator=generator)
    return one, torch.randn(second, width, generator=generator) @ mixing * 0.7 + 0.5


@pytest.mark.parametrize(("first", "second", "width"), [(200, 150, 7), (40, 60, 40), (64, 9, 5)])
def test_frechet_distance_equals_scipy(first, second, width):
    one, two = clouds(first, second, width)
    a, b = one.double().numpy(), two.double().numpy()
    cov1, cov2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(cov1 @ cov2).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov1 + cov2 - 2 * root)
    assert frechet_distance(one, two) == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_with_fewer_images_than_dimensions():
    """Where scipy's root is singular: equal sets are at distance 0, a shift adds its square."""
    one = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one, one + 0.5) == pytest.approx(50 * 0.25, rel=1e-6)


def test_kernel_distance_by_the_sums():
    one, two = clouds(13, 8, 5)
    a, b = one.double().numpy(), two.double().numpy()

    def k(x, y):
        return (x @ y / 5 + 1) ** 3

    def within(x):
        return np.mean([k(p, q) for i, p in enumerate(x) for j, q in enumerate(x) if i != j])

    across = np.mean([k(p, q) for p in a for q in b])
    assert kernel_distance(one, two) == pytest.approx(within(a) + within(b) - 2 * across, rel=1e-9)


def test_kernel_distance_of_one_distribution_is_about_zero():
    generator = torch.Generator().manual_seed(2)
    one, two = torch.randn(2, 400, 6, generator=generator)
    assert abs(kernel_distance(one, two)) < 0.02
    assert kernel_distance(one, two + 1) > 0.5


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_one_image_is_too_few(distance):
    with pytest.raises(ValueError, match="2 images a side at least, got 1, 5"):
        distance(torch.zeros(1, 3), torch.zeros(5, 3))
