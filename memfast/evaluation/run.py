"""`memfast.evaluate` and `memfast.attack`: the protocol and the attack as two calls."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DiffusionPipeline

from memfast.errors import InputError
from memfast.evaluation import triggers
from memfast.evaluation.adversarial import AttackSettings
from memfast.evaluation.attack import Attacked, attack_cases
from memfast.evaluation.cases import load_cases
from memfast.evaluation.extraction import Extraction, extract
from memfast.evaluation.instruments import (
    check_images,
    given,
    image_size,
    instruments,
    seen_in,
)
from memfast.evaluation.mitigations import MITIGATIONS
from memfast.evaluation.protocol import Bench, Outcome, Stage, run
from memfast.evaluation.results import Row, rows
from memfast.evaluation.similarity import Toolbox
from memfast.models.denoising import Denoiser
from memfast.prompts import PromptSet

FEATURES = "efficientnet-lite0"


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. notes: what could not be used; missing: what did not run, and why."""

    bench: Bench
    outcomes: Mapping[str, Outcome]
    rows: Sequence[Row]
    notes: Sequence[str]
    missing: Mapping[str, str]
    settings: Mapping[str, Any]

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


@dataclass(frozen=True)
class AttackReport:
    """What `attack` found: {"memorized" | "control": attack on those images}, and the rest."""

    attacked: Mapping[str, Attacked]
    triggers: Sequence[Mapping[str, Any]]
    projected: Mapping[str, str]
    extracted: Sequence[Extraction]
    tools: Toolbox
    notes: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """One row a set of images, start, number of steps and metric; then triggers."""
        attacks = [
            {"images": name, **row} for name, found in self.attacked.items() for row in found.rows()
        ]
        return [*attacks, *({"images": "memorized", **row} for row in self.triggers)]

    def summary(self) -> dict[str, Any]:
        """Plain values, as in summary.json."""
        return {
            "settings": dict(self.settings),
            "metrics": metric_facts(self.tools),
            "missing": dict(self.tools.missing),
            "notes": list(self.notes),
            "rates": [{**row, "rate": row["rate"].as_dict()} for row in self.rows()],
            "projected": dict(self.projected),
            "extraction": [
                {"id": e.id, "clique": e.clique, "seeds": e.seeds, "extracted": e.extracted}
                for e in self.extracted
            ],
        }


def metric_facts(tools: Toolbox) -> dict[str, Any]:
    """Each metric's version, threshold and source, so that a rate can be read later."""
    return {
        metric.name: {
            "version": metric.version,
            "threshold": metric.threshold,
            "copies_are": metric.copy,
            "source": metric.source,
            "network": metric.network,
        }
        for metric in tools.metrics
    }


def silent(label: str, total: int) -> Callable[[int], None]:
    """A stage that shows nothing."""
    return lambda done: None


def evaluate(
    pipeline: DiffusionPipeline,
    memorized: PromptSet,
    reference: PromptSet,
    *,
    original: DiffusionPipeline | None = None,
    located: PromptSet | None = None,
    heldout: PromptSet | None = None,
    methods: Sequence[str] = (),
    schedule: Mapping[str, Any],
    seeds: int = 2,
    repeats: int = 3,
    seed: int = 0,
    fraction: float = 0.1,
    limit: int | None = None,
    attack: AttackSettings | None = None,
    metrics: Sequence[str] | None = None,
    weights: Mapping[str, str] | None = None,
    features: str | None = FEATURES,
    stage: Stage = silent,
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
    Raises InputError for unknown names and lists without any training image.
    """
    for name in methods:
        if name not in MITIGATIONS:
            raise InputError(f"methods: {name!r} is none of {', '.join(MITIGATIONS)}")
    if original is not None and methods:
        raise InputError("methods: are compared on an original; leave them or `original` out")
    treated = Denoiser(pipeline)  # type: ignore[arg-type]
    denoiser = treated if original is None else Denoiser(original)  # type: ignore[arg-type]
    chosen = [MITIGATIONS[name] for name in methods]
    if original is not None:
        chosen = [given(denoiser, treated)]
    tools, (clip, network), missing = instruments(metrics, weights, features)
    size = image_size(denoiser)
    ours = load_cases(memorized, size, limit)
    theirs = load_cases(reference, size, max(len(ours), 4))
    check_images(ours, memorized.name)
    if len(theirs) < 4 or (original is None and methods and len(ours) < 2):
        raise InputError("reference: at least 4 captions (and 2 memorized ones) are needed")
    if network is not None and not len(theirs.training_images()):
        missing["fid"], network = "the reference captions have no images", None
    bench = Bench(
        denoiser,
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
        heldout=None if heldout is None else load_cases(heldout, size, max(len(ours), 4)),
    )
    outcomes = run(bench, chosen, stage)
    known = None if located is None else seen_in(ours, located)
    settings = {
        **schedule,
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
    notes = (*ours.notes, *theirs.notes)
    return Evaluation(bench, outcomes, rows(outcomes, bench, known), notes, missing, settings)


def attack(
    pipeline: DiffusionPipeline,
    memorized: PromptSet,
    reference: PromptSet,
    *,
    schedule: Mapping[str, Any],
    starts: Sequence[str] = ("prompt", "noise", "another"),
    settings: AttackSettings | None = None,
    seeds: int = 3,
    limit: int | None = None,
    extraction_seeds: int = 0,
    metrics: Sequence[str] | None = None,
    weights: Mapping[str, str] | None = None,
    stage: Stage = silent,
) -> AttackReport:
    """Attack the memorized images and, as control, as many of the reference captions' images.

    Also tried: paraphrases, the words nearest to the embeddings found, and, with
    `extraction_seeds`, Carlini's extraction with so many seeds a caption.
    """
    settings = settings or AttackSettings()
    denoiser = Denoiser(pipeline)  # type: ignore[arg-type]
    tools, _, missing = instruments(metrics, weights, None)
    size = image_size(denoiser)
    ours = load_cases(memorized, size, limit)
    theirs = load_cases(reference, size, len(ours))
    check_images(ours, memorized.name)
    check_images(theirs, reference.name)
    others = torch.cat([ours.training_images(), theirs.training_images()])
    image_seeds = range(seeds)
    attacked = {}
    for name, cases in (("memorized", ours), ("control", theirs)):
        total = len(cases.first_images()[0]) * settings.steps[-1] * len(starts)
        attacked[name] = attack_cases(
            denoiser,
            cases,
            tools,
            others,
            schedule,
            starts=starts,
            settings=settings,
            seeds=image_seeds,
            progress=stage(f"attacking: {name}", total),
        )
    found: list[dict[str, Any]] = []
    advance = stage("triggers", len(triggers.PARAPHRASES) + 1)
    for kind in triggers.PARAPHRASES:
        outcome = triggers.paraphrase(denoiser, ours, tools, others, schedule, kind=kind)
        found += _trigger_rows(f"paraphrase: {kind}", outcome)
        advance(1)
    shown = attacked["memorized"].cases
    vocabulary = triggers.Vocabulary.of(denoiser, ours.texts + theirs.texts)
    embeddings = attacked["memorized"].embeddings
    texts, outcome = triggers.projected(
        denoiser, shown, embeddings, vocabulary, tools, others, schedule, image_seeds
    )
    found += _trigger_rows("nearest words", outcome)
    advance(1)
    extracted: list[Extraction] = []
    if extraction_seeds:
        encoded = dict(zip(ours.ids, denoiser.encode(ours.texts), strict=True))

        def images_of(ids: Sequence[str], seed: int) -> torch.Tensor:
            embeddings = torch.stack([encoded[i] for i in ids])
            return denoiser.generate(embeddings, ids, seed, **schedule).float().cpu()

        progress = stage("extraction", len(ours) * extraction_seeds)
        extracted = list(extract(ours.ids, images_of, extraction_seeds, progress=progress))
    facts = {
        **schedule,
        "starts": list(starts),
        "steps": list(settings.steps),
        "draws": settings.draws,
        "learning_rate": settings.learning_rate,
        "seed": settings.seed,
        "seeds": seeds,
        "extraction_seeds": extraction_seeds,
        "vocabulary": len(vocabulary.words),
    }
    return AttackReport(
        attacked,
        found,
        dict(zip(shown.ids, texts, strict=True)),
        extracted,
        tools,
        (*ours.notes, *theirs.notes, *missing.values()),
        facts,
    )


def _trigger_rows(start: str, outcome: Any) -> list[dict[str, Any]]:
    return [
        {"start": start, "steps": 0, "metric": metric, "rate": outcome.rate(metric)}
        for metric in outcome.scores
    ]
