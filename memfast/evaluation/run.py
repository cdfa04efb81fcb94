"""`memfast.evaluate`: the protocol as one call."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from torch import Tensor
from typing_extensions import Unpack

from memfast.attacks.embeddings import AttackSettings
from memfast.errors import InputError
from memfast.evaluation.given import given
from memfast.evaluation.mitigations import MITIGATIONS
from memfast.evaluation.pieces import run
from memfast.evaluation.protocol import Bench, Outcome
from memfast.evaluation.results import Row, rows
from memfast.files import Run
from memfast.measuring.cases import load_cases
from memfast.measuring.instruments import check_images, instruments, seen_in
from memfast.measuring.similarity import metric_facts
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.identity import fingerprint
from memfast.pipelines.schedule import Request
from memfast.progress import Stage, stages
from memfast.prompts import PromptSet

FEATURES = "efficientnet-lite0"


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. notes: what could not be used; missing: what did not run, and why;
    pieces: the files that it is made of, in the folder where they are kept."""

    bench: Bench
    outcomes: Mapping[str, Outcome]
    rows: Sequence[Row]
    notes: Sequence[str]
    missing: Mapping[str, str]
    settings: Mapping[str, Any]
    pieces: Sequence[str] = ()

    def summary(self) -> dict[str, Any]:
        """Plain values, as in summary.json."""
        return {
            "settings": dict(self.settings),
            "metrics": metric_facts(self.bench.tools),
            "features": self.bench.network[0] if self.bench.network else None,
            "clip": self.bench.clip.name if self.bench.clip else None,
            "missing": dict(self.missing),
            "notes": list(self.notes),
            "methods": [row.as_dict() for row in self.rows],
        }


def evaluate(
    pipeline: DiffusionPipeline,
    memorized: PromptSet,
    reference: PromptSet,
    *,
    original: DiffusionPipeline | None = None,
    located: PromptSet | None = None,
    heldout: PromptSet | None = None,
    methods: Sequence[str] = (),
    seeds: int = 2,
    repeats: int = 3,
    seed: int = 0,
    fraction: float = 0.1,
    limit: int | None = None,
    attack: AttackSettings | None = None,
    metrics: Sequence[str] | None = None,
    weights: Mapping[str, str] | None = None,
    features: str | None = FEATURES,
    folder: Path | Run | None = None,
    overwrite: bool = False,
    workers: int = 1,
    progress: bool | Stage = False,
    **asked: Unpack[Request],
) -> Evaluation:
    """Replication and quality of a treated model, or of methods, each beside its controls.

    With `original`, `pipeline` is the treated model and is tested on every memorized caption; the
    captions of `located`, with which it was made, are told apart. Without, `pipeline` is the
    original and `methods` (names of `MITIGATIONS`) are learnt on one half of the memorized captions
    and tested on the other. Controls, splits by duplicate group and repetitions: see `protocol`.
    Of `reference`, as many captions are used as there are memorized ones: methods may learn from
    one half of them, the other is for quality and for the attack's control.
    heldout: captions that the model never saw, for quality alone; images are not needed.
    weights: a file or folder for each network that needs one ("clip" gives the CLIP score).
    folder: where finished pieces are kept, so that another run with the same arguments goes on (a
    `memfast.files.Run` where it is open already); overwrite: delete those of other arguments;
    asked: steps, guidance and size other than the pipeline's own (see Request).
    workers: processes on a CPU, one core each (see `pieces.run`). progress: as `audit`'s.
    Raises InputError for unknown names and lists without any training image.
    """
    for name in methods:
        if name not in MITIGATIONS:
            raise InputError(f"methods: {name!r} is none of {', '.join(MITIGATIONS)}")
    if original is not None and methods:
        raise InputError("methods: are compared on an original; leave them or `original` out")
    treated = driver_of(pipeline, **asked)
    driver = treated if original is None else driver_of(original, **asked)
    tools, (clip, network), missing = instruments(metrics, weights, features, driver.device)
    chosen = []
    for method in (MITIGATIONS[name] for name in methods):
        if driver.clip_attention or not method.needs_clip_attention:
            chosen.append(method)
        else:
            kind = type(driver.owner).__name__
            missing[method.name] = (
                f"does not apply to {kind}: it needs cross-attention to CLIP's tokens"
            )
    if original is not None:
        chosen = [given(driver, treated)]
    schedule = driver.schedule()
    size = driver.size
    ours = load_cases(memorized, size, limit)
    theirs = load_cases(reference, size, max(len(ours), 4))
    unseen = None
    if heldout is not None:
        unseen = load_cases(heldout, size, max(len(ours), 4), images_wanted=False)
    check_images(ours, memorized.name)
    if len(theirs) < 4 or (original is None and methods and len(ours) < 2):
        raise InputError("reference: at least 4 captions (and 2 memorized ones) are needed")
    if network is not None and not len(theirs.training_images()):
        missing["fid"], network = "the reference captions have no images", None
    real: Sequence[Tensor] = ()
    if network is not None:
        images = [len(case.images) for case in theirs.cases]
        real = network[1](theirs.training_images()).split(images)
    bench = Bench(
        driver,
        ours,
        theirs,
        schedule,
        tools,
        seeds,
        repeats,
        seed,
        fraction,
        fixed_test=original is not None or not methods,
        attack=attack,
        clip=clip,
        network=network,
        real=real,
        heldout=unseen,
    )
    settings = {
        **driver.request(schedule),
        "seeds": seeds,
        "repeats": repeats,
        "seed": seed,
        "fraction": fraction,
        "memorized": len(ours),
        "reference": len(theirs),
        "heldout": len(bench.heldout) if bench.heldout else 0,
        "attack_steps": attack.steps[-1] if attack else None,
        "attack_draws": attack.draws if attack else None,
    }
    identity = {
        "model": fingerprint(treated.model),
        "original": None if original is None else fingerprint(driver.model),
        **settings,
        "methods": list(methods),
        "attack": asdict(attack) if attack else None,
        "metrics": [metric.label for metric in tools.metrics],
        "features": network[0] if network else None,
        "clip": clip.name if clip else None,
        "captions": [cases and cases.digest for cases in (ours, theirs, bench.heldout)],
    }
    outcomes, pieces = run(bench, chosen, stages(progress), identity, folder, overwrite, workers)
    known = None if located is None else seen_in(ours, located)
    left_out = [note for outcome in outcomes.values() for note in outcome.notes]
    notes = (*ours.notes, *theirs.notes, *(unseen.notes if unseen else ()), *left_out)
    return Evaluation(
        bench, outcomes, rows(outcomes, bench, known), notes, missing, settings, pieces
    )
