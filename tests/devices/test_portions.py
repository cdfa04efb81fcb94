"""Work in portions: out of memory halves them, by whichever error, and the result is the same."""

import pytest
import torch
from torch import Tensor, nn

from memfast.errors import InputError
from memfast.memory.counting import count, without_memory
from memfast.memory.portions import Portion
from memfast.pipelines.drivers.table import driver_of
from memfast.precision import Gradients, float32_weights
from tests.support.tiny.table import build

ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("MPS backend out of memory (MPS allocated: 18 GB)"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried …"),
    MemoryError(),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_memory_that_runs_out_halves_the_portion(error: Exception) -> None:
    tried: list[int] = []

    def work(part: slice) -> list[int]:
        tried.append(part.stop - part.start)
        if part.stop - part.start > 3:
            raise error
        return list(range(part.start, part.stop))

    fitting = Portion(16)
    found = [row for rows in fitting.over(10, work) for row in rows]
    assert found == list(range(10))
    assert tried == [10, 5, 2, 2, 2, 2, 2]
    assert fitting.rows == 2


def test_one_row_that_does_not_fit_is_one_line() -> None:
    def never(part: slice) -> None:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(InputError, match=r"with 1 rows at once .*--dtype bfloat16.*memfast plan"):
        list(Portion(4).over(4, never))


def test_other_errors_pass() -> None:
    def wrong(part: slice) -> None:
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        list(Portion(4).over(4, wrong))


def test_images_are_the_same_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = driver_of(build("sd-v"))
    told, ids = driver.encode(["a", "b", "c"]), ["1", "2", "3"]
    schedule = driver.schedule(num_inference_steps=1)
    whole = driver.generate(told, ids, 0, schedule)
    sampled = type(driver)._sampled

    def short(self, conditioning, *others):
        if len(conditioning) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sampled(self, conditioning, *others)

    monkeypatch.setattr(type(driver), "_sampled", short)
    torch.testing.assert_close(driver.generate(told, ids, 0, schedule), whole, rtol=0, atol=1e-5)


def test_peaks_are_counted_by_hand() -> None:
    """x [1000, 256] · W: at most the product and its relu are alive beside what was there."""
    with without_memory(), torch.no_grad():
        layer, x = nn.Linear(256, 512, bias=False), torch.empty(1000, 256)
        found = count(lambda: layer(x).relu().sum(), layer, x)
    product = 1000 * 512 * 4
    assert 2 * product <= found.bytes <= 2 * product + 2048
    assert found.flops == 2 * 1000 * 256 * 512


def test_small_gradients_of_float16_are_kept() -> None:
    model = nn.Linear(4, 4).half()
    x = torch.ones(4, dtype=torch.float16, requires_grad=True)
    tiny = torch.tensor(1e-9)

    def loss() -> Tensor:
        return (model(x).float() * tiny).sum()

    plain = torch.autograd.grad(loss(), x)[0]
    (scaled,) = Gradients(model).of(loss(), [x])
    exact = model.weight.float().sum(0) * 1e-9
    assert (plain == 0).all()
    torch.testing.assert_close(scaled.float(), exact.detach(), rtol=0.05, atol=6e-8)


def test_large_gradients_of_float16_stay_finite() -> None:
    model = nn.Linear(4, 4).half()
    x = torch.ones(4, dtype=torch.float16, requires_grad=True)
    gradients = Gradients(model)
    (found,) = gradients.of((model(x) * 100).float().sum(), [x])
    assert found.isfinite().all()
    assert gradients.scale < 2**16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_half_is_trained_with_whole_weights(dtype: torch.dtype) -> None:
    model = nn.Linear(3, 3).to(dtype)
    before = model.weight.detach().clone()
    with float32_weights(model):
        assert model.weight.dtype == torch.float32
    assert model.weight.dtype == dtype
    torch.testing.assert_close(model.weight.detach(), before, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_half_that_is_trained_answers_with_its_new_weights(dtype: torch.dtype) -> None:
    model, x = nn.Linear(3, 3).to(dtype), torch.ones(1, 3, dtype=dtype)
    with float32_weights(model):
        before = model(x)
        with torch.no_grad():
            model.weight += 1
        torch.testing.assert_close(model(x), before + 3, rtol=0.02, atol=0.02)
