"""Commands × devices × dtypes × kinds: each works, and agrees with the CPU's float32 as far as its
dtype allows. CI runs a slice; `pytest -m kinds tests/devices` runs all."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from memfast import NeuronStatistics, Subspace, load_pipeline
from tests.support.tiny.table import build
from tests.test_commands import SHORT, call, lists

FAR = "far"  # stands for the name of the accelerator
REFERENCE = ("cpu", "float32")
ALLOWED = {"float32": 1e-3, "float16": 3e-2, "bfloat16": 0.2}  # of a norm, after many roundings


@dataclass
class Shop:
    """One kind's folder, and what each command made of it on a device in a dtype, once."""

    kind: str
    root: Path
    far: str = ""
    done: dict[tuple[str, ...], Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        build(self.kind).save_pretrained(self.root / "model")
        self.memorized, self.reference = lists(self.root)
        self.usual = self.root / "usual.txt"
        self.usual.write_text("".join(f"usual {'words ' * (k % 3)}{k}\n" for k in range(20)))

    def run(self, name: str, device: str, dtype: str) -> Path:
        key = (name, device, dtype)
        if key not in self.done:
            command, arguments, suffix, _ = COMMANDS[name]
            out = self.root / ("-".join(key).replace(" ", "-") + suffix)
            words = [command, *arguments(self), "--out", out, "--dtype", dtype]
            where = self.far if device == FAR else device
            words += [] if command == "prune" else ["--device", where]
            assert call(*words) == 0, f"memfast {' '.join(map(str, words))}"
            self.done[key] = out
        return self.done[key]

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def both(self) -> list[Any]:
        return ["--memorized", self.memorized, "--reference", self.reference]

    @property
    def subspace(self) -> Path:
        """Located in float32 on the CPU: it fits the model in every dtype."""
        return self.run("locate", *REFERENCE)

    @property
    def calibration(self) -> Path:
        """Made in float32 on the CPU: it is of the model in every dtype."""
        return self.run("calibrate", *REFERENCE)

    @property
    def compact(self) -> Path:
        return self.run("compact", *REFERENCE)


def statistics(path: Path) -> Tensor:
    found = NeuronStatistics.load(path)
    return torch.cat([found[site].l2_norm.flatten() for site in found.sites])


def density(path: Path) -> Tensor:
    return torch.tensor([Subspace.load(path).density])


def weights(folder: Path) -> Tensor:
    (file,) = (f for part in ("unet", "transformer") for f in (folder / part).glob("diff*.s*"))
    return torch.cat([t.double().flatten() for _, t in sorted(load_file(file).items())])


def scores(folder: Path) -> Tensor:
    table = pq.read_table(folder / "scores.parquet")
    return torch.tensor([table[name].to_pylist() for name in ("norm", "relative", "energy")])


def figures(*names: str) -> Callable[[Path], Tensor]:
    def read(folder: Path) -> Tensor:
        found = json.loads((folder / "summary.json").read_text())
        return torch.tensor([found[name] for name in names])

    return read


def losses(folder: Path) -> Tensor:
    methods = json.loads((folder / "summary.json").read_text())["methods"]
    return torch.tensor([row["reference"]["loss_ratio"]["value"] for row in methods])


def rates(folder: Path) -> Tensor:
    """How many there are: whether an untrained model's image is a copy hangs on a rounding."""
    return torch.tensor([float(len(json.loads((folder / "summary.json").read_text())["rates"]))])


def seen(path: Path) -> Tensor:
    """What every reference prompt showed, but how the picture changes: that is small here."""
    return load_file(path)["reference"][:, [0, 1, 3]]


def lines(folder: Path) -> Tensor:
    """How many images there are, and that some were acted on: which ones hangs on a rounding."""
    found = [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]
    assert any(line["policy"] for line in found)
    return torch.tensor([float(len(found))])


Read = Callable[[Path], Tensor]
QUICK = [*SHORT, "--repeats", 1, "--seeds", 1, "--metrics"]
COMMANDS: dict[str, tuple[str, Callable[[Shop], list[Any]], str, Read]] = {
    "collect": (
        "collect",
        lambda s: [s.model, "--prompts", s.memorized, "--rows", "both", "--prompt-norms", *SHORT],
        ".safetensors",
        statistics,
    ),
    "locate": (
        "locate",
        lambda s: [s.model, *s.both, "--fraction", 0.25, *SHORT],
        ".safetensors",
        density,
    ),
    "locate by reference": (
        "locate",
        lambda s: [s.model, *s.both[2:], "--rule", "reference", "--max-damage", 9, *SHORT],
        ".safetensors",
        density,
    ),
    "locate by gates": (
        "locate",
        lambda s: [
            s.model,
            *s.both,
            "--rule",
            "gates",
            "--gate-steps",
            2,
            "--fraction",
            0.25,
            *SHORT,
        ],
        ".safetensors",
        density,
    ),
    "compact": ("compact", lambda s: [s.model, "--subspace", s.subspace], "", weights),
    "compact by least squares": (
        "compact",
        lambda s: (
            [
                s.model,
                "--subspace",
                s.subspace,
                "--reference",
                s.reference,
                "--compensate",
                "least-squares",
                *SHORT,
            ]
        ),
        "",
        weights,
    ),
    "prune": ("prune", lambda s: [s.model, "--subspace", s.subspace], "", weights),
    "audit": (
        "audit",
        lambda s: (
            [
                s.model,
                "--prompts",
                s.memorized,
                "--reference",
                s.usual,
                "--unit",
                3,
                "--walk-steps",
                2,
                "--verify",
                0.5,
                "--verify-seeds",
                2,
                *SHORT,
            ]
        ),
        "",
        scores,
    ),
    "evaluate": (
        "evaluate",
        lambda s: [s.model, *s.both, "--methods", "all", *QUICK, "l2_ratio,ssim,perceptual"],
        "",
        losses,
    ),
    "evaluate a treated model": (
        "evaluate",
        lambda s: (
            [
                s.compact,
                "--original",
                s.model,
                *s.both,
                "--attack",
                "--attack-steps",
                2,
                *QUICK,
                "ssim",
            ]
        ),
        "",
        losses,
    ),
    "attack": (
        "attack",
        lambda s: (
            [
                s.model,
                *s.both,
                "--steps",
                "1,2",
                "--draws",
                2,
                "--seeds",
                1,
                "--limit",
                2,
                "--metrics",
                "ssim",
                "--extraction-seeds",
                2,
                *SHORT,
            ]
        ),
        "",
        rates,
    ),
    "calibrate": (
        "calibrate",
        lambda s: [s.model, "--reference", s.usual, "--fpr", 0.5, *SHORT],
        ".safetensors",
        seen,
    ),
    "generate": (
        "generate",
        lambda s: (
            [
                s.model,
                "--prompts",
                s.memorized,
                "--guard",
                s.calibration,
                "--policy",
                "reword,renew,blank",
                *SHORT,
            ]
        ),
        "",
        lines,
    ),
    "repair": (
        "repair",
        lambda s: (
            [
                s.compact,
                "--original",
                s.model,
                *s.both,
                "--steps",
                2,
                "--batch-size",
                2,
                "--controls",
                1,
                *SHORT,
            ]
        ),
        "",
        figures("damage_before", "damage_after"),
    ),
}
EVERYDAY = {
    ("sd-v", FAR, "float32"): {"collect", "locate", "compact", "audit", "attack", "generate"}
} | {("sd-v", FAR, "bfloat16"): {"collect", "audit", "repair", "calibrate", "generate"}}
CELLS = [
    pytest.param(
        kind,
        (device, dtype),
        name,
        marks=[] if name in EVERYDAY.get((kind, device, dtype), ()) else pytest.mark.kinds,
        id=f"{kind}-{device}-{dtype}-{name}",
    )
    for kind in ("sd-v", "sdxl-euler", "flux-dev")
    for device in ("cpu", FAR)
    for dtype in ALLOWED
    for name in COMMANDS
    if (device, dtype) != REFERENCE
]


@pytest.fixture(scope="module")
def made() -> dict[str, Shop]:
    return {}


@pytest.fixture
def shops(
    made: dict[str, Shop], tmp_path_factory: pytest.TempPathFactory, far: str
) -> Callable[[str], Shop]:
    def of(kind: str) -> Shop:
        if kind not in made:
            made[kind] = Shop(kind, tmp_path_factory.mktemp(kind), far)
        return made[kind]

    return of


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("kind", "place", "name"), CELLS)
def test_command(
    shops: Callable[[str], Shop], kind: str, place: tuple[str, str], name: str
) -> None:
    shop, read = shops(kind), COMMANDS[name][3]
    expected, found = (read(shop.run(name, *at)).double() for at in (REFERENCE, place))
    assert found.isfinite().all()
    assert (found - expected).norm() <= ALLOWED[place[1]] * expected.norm()


def test_the_best_device_is_chosen_and_said(
    shops: Callable[[str], Shop], far: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = shops("sd-v")
    out = tmp_path / "statistics.safetensors"
    words = ["collect", shop.model, "--prompts", shop.memorized, *SHORT, "--out", out]
    assert call(*words) == 0
    said = capsys.readouterr().err
    assert f"on {far} in float32 (the accelerator here)" in said


def test_the_accelerator_refuses_what_cuda_refuses(far: str) -> None:
    there = torch.randn(3, 4, device=far)
    assert (there @ there.T).cpu().device.type == "cpu"
    assert there[torch.tensor([0, 2])].shape == (2, 4)
    for wrong in (
        lambda: there + torch.randn(3, 4),
        lambda: there.numpy(),
        lambda: torch.randn(3, 4)[torch.zeros(2, dtype=torch.long, device=far)],
        lambda: torch.randn(2, device=far, generator=torch.Generator()),
    ):
        with pytest.raises((RuntimeError, TypeError)):
            wrong()


def test_a_repaired_model_keeps_its_dtype(shops: Callable[[str], Shop]) -> None:
    folder = shops("sd-v").run("repair", FAR, "bfloat16")
    made = load_file(next((folder / "unet").glob("diff*.safetensors")))
    kept = [tensor for tensor in made.values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in kept} == {torch.bfloat16}


def test_statistics_of_a_half_locate_for_the_whole(shops: Callable[[str], Shop]) -> None:
    shop = shops("sd-v")
    halves = shop.run("collect", FAR, "bfloat16")
    assert (
        NeuronStatistics.load(halves).header["model"]
        == NeuronStatistics.load(shop.run("collect", *REFERENCE)).header["model"]
    )
    assert load_pipeline(shop.model).unet.dtype == torch.float32
