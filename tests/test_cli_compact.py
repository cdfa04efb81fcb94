"""memfast compact and memfast families, as commands in this process."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open

from memfast import InputError, Subspace, ffn_sites
from memfast.cli.app import app
from memfast.pipelines.loading import load_pipeline

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
SHORT = ["--steps", "2", "--num-inference-steps", "4", "--guidance-scale", "2"]


def run(*arguments: object) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


@pytest.fixture
def subspace(tiny_folder: Path, tmp_path: Path) -> Path:
    """A quarter of the tiny pipeline's neurons, in a file."""
    unet = load_pipeline(tiny_folder).unet
    path = tmp_path / "subspace.safetensors"
    mean = {site: torch.ones(n) for site, n in ffn_sites(unet).items()}
    masks = {site: torch.arange(n) % 4 == 0 for site, n in ffn_sites(unet).items()}
    Subspace(masks, mean=mean).save(path)
    return path


@pytest.mark.parametrize("form", ["compact", "portable", "masked"])
def test_formats(tiny_folder: Path, subspace: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    run("compact", tiny_folder, "--subspace", subspace, "--out", out, "--format", form)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["format"] == form
    assert summary["neurons_located"] == summary["neurons_removed"] == 128
    assert (summary["neurons_before"], summary["neurons_after"]) == (512, 384)
    assert summary["attention"] == "sdpa"
    assert "verify with `memfast attack`" in (out / "README.md").read_text()
    reloaded = DiffusionPipeline.from_pretrained(out, trust_remote_code=form == "portable")
    kept = set(ffn_sites(reloaded.unet).values())
    assert kept == ({128} if form == "masked" else {96})


def test_bytes_on_disk_are_as_the_summary_says(
    tiny_folder: Path, subspace: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run("compact", tiny_folder, "--subspace", subspace, "--out", out)
    summary = json.loads((out / "summary.json").read_text())
    weights = out / "unet" / "diffusion_pytorch_model.safetensors"
    with safe_open(weights, "pt") as file:
        data = sum(file.get_tensor(k).nbytes for k in file.keys())  # noqa: SIM118
    assert data == summary["bytes_after"]
    each = 3 * 32 + 2  # value and gate rows with biases, one output column
    assert summary["parameters_before"] - summary["parameters_after"] == 128 * each
    assert summary["bytes_before"] - data == 4 * 128 * each - 4 * 384  # less the kept indices


def test_shrink_with_least_squares_and_few_widths(
    tiny_folder: Path, subspace: Path, prompt_files: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    more = ["--shrink", 0.5, "--shrink-of", "flops", "--reference", prompt_files[1], *SHORT]
    more += ["--compensate", "least-squares", "--buckets", 2, "--round", "down"]
    run("compact", tiny_folder, "--subspace", subspace, "--out", out, *more)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["neurons_removed"] >= 128
    assert (summary["shrink"], summary["compensation"]) == (0.5, "least_squares")
    assert len(set(ffn_sites(DiffusionPipeline.from_pretrained(out).unet).values())) <= 2


def test_shrink_from_statistics_alone(
    tiny_folder: Path, prompt_files: tuple[Path, Path], tmp_path: Path
) -> None:
    statistics = tmp_path / "reference.safetensors"
    run("collect", tiny_folder, "--prompts", prompt_files[1], "--out", statistics, *SHORT)
    out = tmp_path / "out"
    run("compact", tiny_folder, "--shrink", 0.25, "--reference", statistics, "--out", out)
    removed = json.loads((out / "summary.json").read_text())["neurons_removed"]
    assert 128 - 4 * 7 <= removed <= 128  # a quarter, less what rounding up gives back


BAD = {
    "nothing to remove": ([], "nothing to remove"),
    "format": (["--subspace", "{subspace}", "--format", "onnx"], "--format onnx: must be one of"),
    "round": (["--subspace", "{subspace}", "--round", "off"], "--round off"),
    "compensate": (["--subspace", "{subspace}", "--compensate", "median"], "mean, none"),
    "shrink without reference": (["--shrink", "0.3"], "--shrink needs reference prompts"),
    "least squares without reference": (
        ["--subspace", "{subspace}", "--compensate", "least-squares"],
        "least-squares needs reference prompts",
    ),
    "share": (["--shrink", "1.5", "--reference", "{prompts}"], "between 0 and 1"),
    "xformers": (["--subspace", "{subspace}", "--attention", "xformers"], "auto, sdpa"),
    "no file": (["--subspace", "{subspace}.none"], "no such file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_writes_nothing(
    tiny_folder: Path,
    subspace: Path,
    prompt_files: tuple[Path, Path],
    tmp_path: Path,
    case: str,
) -> None:
    arguments, message = BAD[case]
    filled = [a.format(subspace=subspace, prompts=prompt_files[1]) for a in arguments]
    with pytest.raises(InputError, match=message):
        run("compact", tiny_folder, "--out", tmp_path / "out", *filled, *SHORT)
    assert not (tmp_path / "out").exists()


def test_families_lists_and_looks_into(
    tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("families")
    listed = capsys.readouterr().out
    assert "FluxTransformer2DModel" in listed
    assert "17.3     19.1" in listed
    run("families", tiny_folder)
    found = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in found] == ["component", "text_encoder", "unet"]
    assert "512" in found[2]
