"""What `memfast locate` does for the rules that ask what reference prompts need least."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memfast.errors import InputError
from memfast.progress import Stage

if TYPE_CHECKING:
    from memfast.prompts import PromptSet
    from memfast.selection import Subspace
    from memfast.statistics import NeuronStatistics

FEWEST = 8  # prompts for --max-damage: one half ranks, the other judges


def least_needed(
    pipeline: Any,
    sets: Mapping[str, "PromptSet | NeuronStatistics"],
    settings: Mapping[str, Any],
    request: Any,
    how: Mapping[str, Any],
    max_damage: float | None,
    gate_steps: int,
    stage: Stage,
) -> "tuple[Subspace, NeuronStatistics]":
    """The subspace and the statistics that ranked it: a share, or as much as damage allows.

    Its header tells how far two halves of the reference prompts agree on what they need.
    """
    from memfast.choosing.learned_gates import Pull, learn_gates
    from memfast.choosing.locating import locate
    from memfast.choosing.rules import RULES
    from memfast.observing.sensitivity import collect_sensitivity, stability
    from memfast.pipelines.drivers.table import driver_of
    from memfast.pipelines.loading import denoiser_of
    from memfast.prompts import PromptSet
    from memfast.statistics import NeuronStatistics

    given, memorized = sets["reference"], None
    model = denoiser_of(pipeline)
    known = {"seed": settings["seed"], **request}
    measured = {"batch_size": settings["batch_size"], **known}
    if max_damage is not None:
        if isinstance(given, NeuronStatistics):
            raise InputError(
                "--max-damage: needs --reference as a prompt list, half of it to judge"
            )
        if len(given) < FEWEST:
            raise InputError(f"--reference: --max-damage needs at least {FEWEST} prompts")
    if RULES[how["rule"]].contrasts:
        memorized = sets["memorized"]
        if not isinstance(memorized, NeuronStatistics):
            advance = stage("memorized", len(memorized))
            memorized = collect_sensitivity(pipeline, memorized, progress=advance, **measured)
    if isinstance(given, NeuronStatistics):
        return locate(memorized, given, model, **how), given
    ranking, judging = list(given)[::2], list(given)[1::2]
    if max_damage is None:
        ranking = list(given)
    agreement: dict[str, float] = {}
    if how["rule"] == "gates":
        if isinstance(sets["memorized"], NeuronStatistics):
            raise InputError("--memorized: rule 'gates' needs a prompt list")
        prompts = PromptSet.of(ranking)
        advance = stage("learning gates", gate_steps)
        pull = Pull(steps=gate_steps)
        statistics = learn_gates(
            pipeline, sets["memorized"], prompts, pull=pull, progress=advance, **known
        )
    else:
        advance = stage("reference", len(ranking))
        parts = [
            collect_sensitivity(pipeline, PromptSet.of(part), progress=advance, **measured)
            for part in (ranking[::2], ranking[1::2])
            if part
        ]
        statistics = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        if len(parts) == 2:
            agreement = stability(parts[0], parts[1], how["fraction"])
    if max_damage is None:
        subspace = locate(memorized, statistics, model, **how)
    else:
        from memfast.measuring.cases import load_cases
        from memfast.repairing.removal import harm_of, remove_to_damage
        from memfast.repairing.samples import with_images

        driver = driver_of(pipeline, **request)
        cases = load_cases(PromptSet.of(judging), driver.size, images_wanted=False)
        statistics.header["notes"] = [*statistics.header.get("notes", ()), *cases.notes]
        cases = with_images(driver, cases, driver.schedule(), settings["seed"])
        harm = harm_of(driver, cases)
        asked = {"rule": how["rule"], "memorized": memorized, "beta": how["beta"]}
        removal = remove_to_damage(driver, statistics, harm, max_damage, **asked)
        found = {"max_damage": max_damage, "damage": removal.damage, "tried": removal.tried}
        subspace = removal.subspace
        subspace.header |= found
    subspace.header |= {"agreement": agreement}
    return subspace, statistics
