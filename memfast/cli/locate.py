"""memfast locate MODEL --memorized F --reference F --out SUBSPACE.safetensors"""

from pathlib import Path
from typing import Annotated

import typer

from memfast.cli import options


def locate(
    model: options.Model,
    memorized: Annotated[Path, typer.Option(help="Prompt list, or file from `memfast collect`.")],
    reference: Annotated[Path, typer.Option(help="Prompt list, or file from `memfast collect`.")],
    out: options.OutFile,
    fraction: Annotated[float, typer.Option(help="Share to remove, between 0 and 1.")] = 0.02,
    rule: Annotated[str, typer.Option(help="neurons or paper.")] = "neurons",
    score: Annotated[str | None, typer.Option(help="Score of rule neurons.")] = None,
    min_steps: Annotated[int, typer.Option(min=1, help="Steps that must select (paper).")] = 1,
    steps: options.Steps = 10,
    num_inference_steps: options.InferenceSteps = None,
    guidance_scale: options.Guidance = None,
    batch_size: options.BatchSize = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    attention: options.Attention = "auto",
    overwrite: options.Overwrite = False,
    config: options.Config = None,
) -> None:
    """Find the neurons (or weights) that memorized prompts use and reference prompts do not."""
    from memfast import NeuronStatistics, read_prompts
    from memfast.cli.console import finish, progress
    from memfast.models.collecting import collect
    from memfast.models.locating import locate as run
    from memfast.models.pipelines import denoiser_of
    from memfast.selection import check_fraction

    options.check_file(out, overwrite)
    check_fraction(fraction)
    paper = {"rows": "both", "row_normalised": True} if rule == "paper" else {}
    settings = options.schedule(model, num_inference_steps, guidance_scale) | paper
    sets = {
        label: NeuronStatistics.load(path) if path.suffix == ".safetensors" else read_prompts(path)
        for label, path in (("memorized", memorized), ("reference", reference))
    }
    pipeline = options.open_pipeline(model, device=device, dtype=dtype, attention=attention)
    with progress() as bar:
        statistics = [
            found
            if isinstance(found, NeuronStatistics)
            else collect(
                pipeline,
                found,
                steps=steps,
                seed=seed,
                batch_size=batch_size,
                progress=bar.stage(label, len(found)),
                **settings,
            )
            for label, found in sets.items()
        ]
    subspace = run(
        *statistics,
        denoiser_of(pipeline),
        rule=rule,
        fraction=fraction,
        min_steps=min_steps,
        score=score,
    )
    subspace.save(out)
    by_site = {site: float(mask.float().mean()) for site, mask in subspace.masks.items()}
    finish(
        out,
        "located",
        {"selects": subspace.kind, "removed": subspace.removed, "density": subspace.density}
        | {"density_by_site": by_site},
    )
