"""The tuning table is complete and deterministic; the bars catch what they are there to catch."""

import os
from dataclasses import replace

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter and the compiler share no process", allow_module_level=True)

import triton
from memfast_kernels.aot.bars import MATRIX, SHARED, judge
from memfast_kernels.aot.cases import ARCHITECTURES, Case, cases
from memfast_kernels.aot.inspection import Report, inspect
from memfast_kernels.triton_backend.tuning import TILES, tile

SOUND = Report(registers=200, stack=0, spills=0, shared=1024, instructions={"HGMMA.64": 8})
LARGE = next(t for t in TILES if (t.kernel, t.architecture, t.rows, t.neurons) ==
             ("dual_gemm", "sm_90", 128, 128))  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_every_kernel(architecture):
    for kernel in ("pointwise", "columns", "dual_gemm"):
        assert tile(kernel, architecture, 1).architecture == architecture
    assert architecture in MATRIX
    assert architecture in SHARED


def test_the_tile_of_statistics_does_not_depend_on_the_shape():
    for entry in TILES:
        for rows in (0, 1, 4096, 10**6):
            if entry.min_rows <= rows:
                assert tile(entry.kernel, entry.architecture, rows).rows == entry.rows


def test_an_unknown_architecture_lists_the_known():
    with pytest.raises(ValueError, match=r"no tile of dual_gemm for sm_70: known are gfx942"):
        tile("dual_gemm", "sm_70", 64)


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        (dict(), ()),
        (dict(stack=8), ("no stack",)),
        (dict(spills=1), ("no spills",)),
        (dict(registers=256), ("registers",)),
        (dict(shared=300_000), ("shared memory",)),
        (dict(instructions={"FFMA": 9}), ("matrix instructions",)),
        (dict(instructions={"HGMMA": 1, "ATOMG.E.ADD": 1}), ("no atomics",)),
        (dict(instructions={"HGMMA": 1, "RED.E.ADD": 1}), ("no atomics",)),
        (dict(instructions={"HGMMA": 1, "SHFL.BFLY": 33}), ("shuffles",)),
        (dict(instructions={"HGMMA": 8 + 12 * 64}), ("statistics per element",)),
    ],
)
def test_bars(change, missed):
    case = Case(LARGE, moments=True, masked=False)
    assert judge(case, replace(SOUND, **change), SOUND).missed == missed


@pytest.mark.parametrize("architecture", ["sm_90", "gfx942"])
def test_a_kernel_compiles_and_clears_the_bars(architecture):
    case = next(c for c in cases() if c.tile.architecture == architecture and c.moments)
    report = inspect(triton.compile(case.source, target=case.target, options=case.options))
    assert report.total > 200
    assert judge(case, report, None).missed == ()
