"""The tuning table is complete and deterministic; the bars catch what they are there to catch."""

import os
from dataclasses import replace

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter and the compiler share no process", allow_module_level=True)

import triton
from memfast_kernels.aot.bars import MATRIX, SHARED, judge
from memfast_kernels.aot.cases import TUNED, Case, cases
from memfast_kernels.aot.inspection import Report, inspect, longest_loop
from memfast_kernels.triton_backend.placing import PIECE_ROWS, cut
from memfast_kernels.triton_backend.tuning import PRODUCTS, WALKS, products, tile, walk

SOUND = Report(registers=200, stack=0, spills=0, shared=1024, instructions={"HGMMA.64": 8})
LARGE = next(t for t in PRODUCTS if (t.kernel, t.architecture, t.rows, t.neurons) ==
             ("dual_gemm", "sm_90", 128, 128))  # fmt: skip
PAIRED = tile("gated_tma", "sm_90", 0)
GATE = walk("pointwise", "sm_90")


@pytest.fixture(autouse=True)
def forgotten():
    """What was said once is said again."""
    products.cache_clear()


@pytest.mark.parametrize("architecture", TUNED)
def test_every_tuned_architecture_has_every_kernel(architecture):
    assert tile("dual_gemm", architecture, 1).architecture == architecture
    for kernel in ("pointwise", "columns", "normalised"):
        assert architecture.startswith(walk(kernel, architecture).architecture)
    assert architecture in MATRIX
    assert architecture in SHARED


@pytest.mark.parametrize(
    "architecture",
    ["sm_70", "sm_75", "sm_120", "sm_121", "sm_999", "gfx90a", "gfx950", "gfx1100", "xpu_device"],
)
def test_an_unknown_architecture_takes_its_vendors_tile_and_says_so_once(architecture, recwarn):
    safe = {"s": "sm", "g": "gfx", "x": "xpu"}[architecture[0]]
    for _ in range(2):
        assert tile("dual_gemm", architecture, 10**6).architecture == safe
        assert walk("pointwise", architecture).architecture == safe
    assert [architecture in str(said.message) for said in recwarn] == [True]


def test_relatives_share_tiles_in_silence(recwarn):
    assert tile("dual_gemm", "sm_86", 64) == tile("dual_gemm", "sm_89", 64)
    assert products("gated_gemm", "sm_80") == ()
    assert not recwarn.list


def test_the_rows_of_statistics_do_not_depend_on_the_batch():
    for entry in PRODUCTS:
        for other in PRODUCTS:
            if entry[:2] == other[:2]:
                assert entry.rows == other.rows
    for segment in (1, 77, 4096, 10**5):
        found = {cut(images * segment, segment, 128)[0::2] for images in (1, 2, 64)}
        assert len(found) == 1


@pytest.mark.parametrize("entry", [*WALKS, PAIRED], ids=lambda entry: entry.kernel)
@pytest.mark.parametrize("segment", [1, 511, 512, 1023, 1024, 1500, 4096, 10**6 + 1])
def test_pieces_cover_a_segment_and_are_few(entry, segment):
    pieces = cut(3 * segment, segment, entry.rows)
    rows = pieces.chunks * entry.rows
    assert (pieces.pieces - 1) * rows < segment <= pieces.pieces * rows
    assert pieces.masked == (segment % rows != 0)
    assert pieces.pieces == 1 or pieces.pieces * PIECE_ROWS <= segment


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
    case = Case(LARGE, "sm_90", moments=True, masked=False)
    assert judge(case, replace(SOUND, **change), SOUND).missed == missed


@pytest.mark.parametrize(
    ("entry", "loop", "missed"),
    [
        (GATE, dict(FFMA=1000 + 10 * 32), ()),
        (GATE, dict(FFMA=1000 + 11 * 32), ("statistics per element",)),
        (GATE, {"FFMA": 1000, "SHFL.BFLY": 1}, ("no exchange in the walk",)),
        (GATE, {"FFMA": 1000, "BAR.SYNC": 1}, ("no exchange in the walk",)),
        (GATE, {"FFMA": 1000, "DADD": 1}, ("no exchange in the walk",)),
        (PAIRED, dict(FFMA=1000 + 9 * 64), ()),
        (PAIRED, dict(FFMA=1000 + 10 * 64), ("statistics per element",)),
    ],
)
def test_bars_on_a_loop(entry, loop, missed):
    case = Case(entry, "sm_90", moments=True, masked=False)
    plain, counted = replace(SOUND, loop={"FFMA": 1000}), replace(SOUND, loop=loop)
    assert judge(case, counted, plain).missed == missed


def test_the_longest_loop():
    lines = ["MOV R1, R2", "FADD R1", ".L_x_1:", "FMUL R1", "@P0 BRA `(.L_x_1)", ".L_x_2:",
             "FFMA R1", "BRA `(.L_x_3)", "SHFL.BFLY R2", ".L_x_3:", "@!P0 BRA `(.L_x_2)",
             "EXIT"]  # fmt: skip
    sass = "\n".join(
        x if x[0] == "." else f"        /*{16 * i:04x}*/  {x}" for i, x in enumerate(lines)
    )
    assert longest_loop(sass) == {"FFMA": 1, "BRA": 2, "SHFL.BFLY": 1}


@pytest.mark.parametrize(
    ("architecture", "kernel", "one"),
    [("sm_90", "pointwise", False), ("gfx942", "columns", False), ("sm_90", "dual_gemm", True)],
)
def test_a_kernel_compiles_and_clears_the_bars(architecture, kernel, one):
    case = next(
        c
        for c in cases()
        if (c.architecture, c.tile.kernel, c.one) == (architecture, kernel, one) and c.moments
    )
    report = inspect(triton.compile(case.source, target=case.target, options=case.options))
    assert report.total > 200
    assert judge(case, report, None).missed == ()
