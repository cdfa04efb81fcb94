"""Scores against numpy and cases worked by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from memfast.auditing.calibration import inflation
from memfast.auditing.looking.combining import (
    COMBINATIONS,
    combinations,
    distance,
    likelihood,
    mean,
    whitened,
)
from memfast.auditing.looking.probes import Look, Prediction
from memfast.auditing.looking.scores import (
    SCORES,
    Baseline,
    available,
    change,
    discriminant_direction,
    energy,
    guidance_norm,
    located_energy,
    relative_norm,
)


def look(
    clean: torch.Tensor, noise: torch.Tensor, empty: torch.Tensor | None, start: bool = False
) -> Look:
    without = None if empty is None else Prediction(empty, empty)
    norms = torch.zeros(len(clean), 3, dtype=torch.float64)
    return Look(Prediction(clean, noise), norms, without, start=start)


def latents(*values: float) -> torch.Tensor:
    return (
        torch.tensor(values, dtype=torch.float32)
        .reshape(-1, 1, 1, 1)
        .expand(-1, 4, 3, 3)
        .contiguous()
    )


def test_guidance_norm_is_that_of_the_looks_later_than_pure_noise() -> None:
    start = look(latents(0, 0), latents(1, 5), latents(0), start=True)
    middle = look(latents(0, 0), latents(3, 4), latents(1, 1))
    alone = look(latents(0, 0), latents(3, 4), None)
    side = 36**0.5  # of a 4 x 3 x 3 cube of ones
    assert guidance_norm([start]).tolist() == pytest.approx([side, 5 * side])
    assert guidance_norm([start, alone]).tolist() == pytest.approx([side, 5 * side])
    assert guidance_norm([start, middle]).tolist() == pytest.approx([2 * side, 3 * side])
    late = look(latents(0, 0), latents(1, 5), latents(0))
    both = guidance_norm([start, middle, late])
    assert both.tolist() == pytest.approx([1.5 * side, 4 * side])
    assert guidance_norm([middle, late]).tolist() == pytest.approx([1.5 * side, 4 * side])


def test_relative_norm_is_in_units_of_the_noise_without_the_prompt() -> None:
    start = look(latents(0, 0), latents(1, 5), latents(4), start=True)
    middle = look(latents(0, 0), latents(3, 4), latents(1, 2))
    assert relative_norm([start]).tolist() == pytest.approx([3 / 4, 1 / 4])
    assert relative_norm([start, middle]).tolist() == pytest.approx([2, 1])
    assert relative_norm([start, middle, middle]).tolist() == pytest.approx([2, 1])


def test_change_is_the_way_between_first_and_last() -> None:
    looks = [look(latents(1, 2), latents(0, 0), None), look(latents(1, 5), latents(0, 0), None)]
    assert change(looks).tolist() == pytest.approx([0, 3 * 36**0.5])


def test_energy_against_numpy() -> None:
    random = np.random.default_rng(0)
    reference, norms = random.normal(5, 2, (50, 7)), random.normal(6, 3, (4, 7))
    reference[:, 3] = 1.0  # never varies, so it counts nothing
    mean, deviation = reference.mean(0), reference.std(0, ddof=1)
    deviation[3] = 0
    z = np.delete((norms - mean), 3, 1) / np.delete(deviation, 3)
    mask = torch.tensor([True, False, False, False, True, False, False])
    baseline = Baseline(torch.from_numpy(mean), torch.from_numpy(deviation), mask)
    found = energy(torch.from_numpy(norms), baseline).numpy()
    np.testing.assert_allclose(found, (z**2).sum(1) / 7, rtol=1e-12)
    part = located_energy(torch.from_numpy(norms), baseline).numpy()
    np.testing.assert_allclose(part, (z[:, [0, 3]] ** 2).mean(1), rtol=1e-12)


@pytest.mark.parametrize("count", [10, 20, 200])
def test_energy_of_a_new_prompt_is_as_much_larger_as_the_baseline_is_small(count: int) -> None:
    source = torch.Generator().manual_seed(count)
    known = torch.randn(count, 4000, generator=source, dtype=torch.float64)
    new = torch.randn(100, 4000, generator=source, dtype=torch.float64)
    found = energy(new, Baseline(known.mean(0), known.std(0))).mean()
    assert float(found) == pytest.approx(inflation(count), rel=0.02)


@pytest.mark.parametrize(("prompts", "neurons"), [(9, 4), (5, 40)])
def test_the_discriminant_against_an_explicit_inverse(prompts: int, neurons: int) -> None:
    random = np.random.default_rng(1)
    memorized = random.normal(1, 1, (prompts, neurons))
    reference = random.normal(0, 2, (2 * prompts, neurons))
    parts = [memorized - memorized.mean(0), reference - reference.mean(0)]
    centred = np.concatenate(parts)
    within = centred.T @ centred / (len(centred) - 2)
    shrunk = 0.7 * within + 0.3 * np.trace(within) / neurons * np.eye(neurons)
    expected = np.linalg.solve(shrunk, memorized.mean(0) - reference.mean(0))
    expected /= np.linalg.norm(expected)
    found = discriminant_direction(torch.from_numpy(memorized), torch.from_numpy(reference), 0.3)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SCORES)
def test_every_entry_has_one_function(name: str) -> None:
    assert (SCORES[name].of_looks is None) != (SCORES[name].of_norms is None)


def drawn(rows: int, shift: float = 0.0) -> np.ndarray:
    """Three correlated, skewed columns."""
    random = np.random.default_rng(rows)
    return np.exp(random.normal(shift, 1, (rows, 3)) @ [[1, 0.5, 0], [0, 0.7, 0.2], [0, 0, 0.4]])


def z(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    low, centre, high = np.quantile(np.log(known), [0.25, 0.5, 0.75], axis=0)
    return (np.log(values) - centre) / ((high - low) / 1.349)


def test_combinations_against_numpy_and_scipy() -> None:
    known, values = drawn(80), drawn(9, 1.0)
    tensors = torch.from_numpy(values), torch.from_numpy(known)
    shown = z(values, known)
    np.testing.assert_allclose(mean(*tensors), shown.mean(1), rtol=1e-12)
    shrunk = 0.8 * np.corrcoef(np.log(known).T) + 0.2 * np.eye(3)
    inverse = np.linalg.inv(shrunk)
    expected = shown @ inverse.sum(1) / inverse.sum() ** 0.5
    np.testing.assert_allclose(whitened(*tensors), expected, rtol=1e-9)
    np.testing.assert_allclose(distance(*tensors), (shown**2).mean(1) ** 0.25 - 1, rtol=1e-12)
    scale = student.std(5)
    raised = np.maximum(shown, 0) * scale  # the best shift of a part is to its value, if upward
    ratio = student.logpdf(0, 5) - student.logpdf(raised, 5)
    np.testing.assert_allclose(likelihood(*tensors), ratio.sum(1), rtol=1e-9)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_combination_grows_with_every_part(name: str) -> None:
    known = torch.from_numpy(drawn(80))
    usual = known.median(0).values[None]
    assert (COMBINATIONS[name](usual * 30, known) > COMBINATIONS[name](usual, known)).all()


def test_parts_are_there_where_levels_are_several() -> None:
    one, two = (available(3, False, False, levels) for levels in ((0.3,), (0.3, 0.05)))
    assert two == [*one, "relative@0.3", "relative@0.05"]
    energy = one.index("energy")
    assert combinations(one)["mean"] == [one.index("relative"), energy]
    assert combinations(two)["mean"] == [energy, len(one), len(one) + 1]
    assert combinations(two)["combined"] == [*range(len(two))]
