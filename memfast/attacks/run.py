"""`memfast.attack`: adversarial embeddings, paraphrases, nearest words, extraction: one call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DiffusionPipeline
from typing_extensions import Unpack

from memfast.attacks import triggers
from memfast.attacks.embeddings import AttackSettings
from memfast.attacks.experiment import Attacked, attack_cases
from memfast.measuring.cases import load_cases
from memfast.measuring.extraction import Extraction, extract
from memfast.measuring.instruments import check_ids, check_images, instruments
from memfast.measuring.similarity import Toolbox, metric_facts
from memfast.memory.captured import captured
from memfast.pipelines.drivers.table import driver_of
from memfast.pipelines.schedule import Request
from memfast.progress import Stage, stages
from memfast.prompts import PromptSet


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
            "captions": {c.id: c.text for c in self.attacked["memorized"].cases.cases},
            "projected": dict(self.projected),
            "extraction": [
                {"id": e.id, "clique": e.clique, "seeds": e.seeds, "extracted": e.extracted}
                for e in self.extracted
            ],
        }


def attack(
    pipeline: DiffusionPipeline,
    memorized: PromptSet,
    reference: PromptSet,
    *,
    starts: Sequence[str] = ("prompt", "noise", "another"),
    settings: AttackSettings | None = None,
    seeds: int = 3,
    limit: int | None = None,
    extraction_seeds: int = 0,
    metrics: Sequence[str] | None = None,
    weights: Mapping[str, str] | None = None,
    graphs: bool = True,
    progress: bool | Stage = False,
    **asked: Unpack[Request],
) -> AttackReport:
    """Attack the memorized images and, as control, as many of the reference captions' images.

    Also tried: paraphrases, the words nearest to the embeddings found, and, with
    `extraction_seeds`, Carlini's extraction with so many seeds a caption. graphs: as `collect`'s,
    for what takes no gradients. progress: as `audit`'s. asked: see Request.
    """
    settings, stage = settings or AttackSettings(), stages(progress)
    driver = driver_of(pipeline, **asked)
    tools, _, missing = instruments(metrics, weights, None, driver.device)
    schedule = driver.schedule()
    size = driver.size
    ours = load_cases(memorized, size, limit)
    theirs = load_cases(reference, size, len(ours))
    check_images(ours, memorized.name)
    check_ids(ours, memorized.name)
    check_images(theirs, reference.name)
    others = torch.cat([ours.training_images(), theirs.training_images()])
    image_seeds = range(seeds)
    with captured(driver.models.values(), wanted=graphs):
        attacked = {}
        for name, cases in (("memorized", ours), ("control", theirs)):
            total = len(cases.first_images()[0]) * settings.steps[-1] * len(starts)
            attacked[name] = attack_cases(
                driver,
                cases,
                tools,
                others,
                schedule,
                starts=starts,
                settings=settings,
                seeds=image_seeds,
                progress=stage(f"attacking: {name}", total),
                graphs=graphs,
            )
        found: list[dict[str, Any]] = []
        advance = stage("triggers", len(triggers.PARAPHRASES) + 1)
        for kind in triggers.PARAPHRASES:
            outcome = triggers.paraphrase(driver, ours, tools, others, schedule, kind=kind)
            found += _trigger_rows(f"paraphrase: {kind}", outcome)
            advance(1)
        shown = attacked["memorized"].cases
        vocabulary = triggers.Vocabulary.of(driver, ours.texts + theirs.texts)
        found_for = attacked["memorized"].found
        texts, outcome = triggers.projected(
            driver, shown, found_for, vocabulary, tools, others, schedule, image_seeds
        )
        found += _trigger_rows("nearest words", outcome)
        advance(1)
        extracted: list[Extraction] = []
        if extraction_seeds:
            encoded = driver.encode_all(ours.texts)

            def images_of(ids: Sequence[str], seed: int) -> torch.Tensor:
                part = encoded[[ours.ids.index(i) for i in ids]]
                return driver.generate(part, ids, seed, schedule).float().cpu()

            advance = stage("extraction", len(ours) * extraction_seeds)
            extracted = list(extract(ours.ids, images_of, extraction_seeds, progress=advance))
    facts = {
        **driver.request(schedule),
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
        (
            *ours.notes,
            *theirs.notes,
            *(f"{name}: {note}" for name, each in attacked.items() for note in each.notes),
            *missing.values(),
        ),
        facts,
    )


def _trigger_rows(start: str, outcome: Any) -> list[dict[str, Any]]:
    return [
        {"start": start, "steps": 0, "metric": metric, "rate": outcome.rate(metric)}
        for metric in outcome.scores
    ]
