"""What a model still gives away: copies that it makes, and images that an attack brings back."""

from collections.abc import Sequence

import torch

from memfast.attacks.embeddings import AttackSettings
from memfast.attacks.experiment import attack_cases
from memfast.measuring.cases import Cases
from memfast.measuring.rates import Interval, mean_interval
from memfast.measuring.replication import Replication, replication
from memfast.measuring.similarity import toolbox
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.schedule import Schedule
from memfast.progress import Stage, silent

METRICS = ("l2_ratio", "ssim")  # a copy, or brought back: an image that passes both thresholds
SEEDS = (0, 1)


def copied(
    driver: Driver,
    cases: Cases,
    library: torch.Tensor,
    schedule: Schedule,
    seeds: Sequence[int] = SEEDS,
) -> Interval:
    """The share of captions of which some seed makes a copy, by both metrics at once."""
    told = driver.encode_all(cases.texts)
    images = [driver.generate(told, cases.ids, seed, schedule).float().cpu() for seed in seeds]
    found = replication(toolbox(METRICS, device=driver.device), images, cases, library)
    return rate_of(_by_both(found), cases)


def brought_back(
    driver: Driver,
    cases: Cases,
    library: torch.Tensor,
    schedule: Schedule,
    attack: AttackSettings | None,
    starts: Sequence[str],
    stage: Stage = silent,
) -> torch.Tensor:
    """1 for each image that the attack brings back from any start, by both metrics at once."""
    attack = attack or AttackSettings()
    total = len(cases) * attack.steps[-1] * len(starts)
    result = attack_cases(
        driver,
        cases,
        toolbox(METRICS, device=driver.device),
        library,
        schedule,
        starts=starts,
        settings=attack,
        seeds=SEEDS,
        progress=stage("attacking", total),
    )
    return _by_both(result.together(attack.steps[-1]))


def rate_of(passed: torch.Tensor, cases: Cases) -> Interval:
    """The share of 1 among what `brought_back` returns, over groups of near-duplicates."""
    return mean_interval(passed, cases.groups, rate=True)


def _by_both(found: Replication) -> torch.Tensor:
    return torch.stack([found.replicated(name) for name in METRICS]).amin(0)
