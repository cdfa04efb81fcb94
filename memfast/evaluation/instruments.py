"""What a run needs besides its prompts: metrics, networks, and facts about the models compared."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import nn

from memfast.errors import InputError
from memfast.evaluation.cases import Cases
from memfast.evaluation.clip import ClipScorer
from memfast.evaluation.features import NETWORKS, Embed, MissingNetwork, load_network
from memfast.evaluation.groups import duplicate_groups
from memfast.evaluation.mitigations import Mitigation, Setting, Treated
from memfast.evaluation.mitigations.pruning import reference_means
from memfast.evaluation.similarity import METRICS, Toolbox, toolbox
from memfast.models.denoising import Denoiser
from memfast.models.families import find_sites
from memfast.prompts import PromptSet

Removed = Literal["neurons", "weights"]
Networks = tuple[ClipScorer | None, tuple[str, Embed] | None]


def instruments(
    metrics: Sequence[str] | None, weights: Mapping[str, str] | None, features: str | None
) -> tuple[Toolbox, Networks, dict[str, str]]:
    """The metrics that can run, (CLIP scorer, feature network), and {name: why it is missing}.

    Raises InputError for unknown names of metrics, features or weights.
    """
    for what, names, legal in (
        ("metrics", metrics or (), METRICS),
        ("weights", weights or (), NETWORKS),
        ("features", [features] if features else (), NETWORKS),
    ):
        for name in names:
            if name not in legal:
                raise InputError(f"{what}: {name!r} is none of {', '.join(legal)}")
    tools = toolbox(None if metrics is None else tuple(metrics), weights)
    missing = dict(tools.missing)
    given = dict(weights or {})
    clip = network = None
    try:
        clip = ClipScorer(given.get("clip"))
    except MissingNetwork as error:
        missing["clip score"] = str(error)
    if features is not None:
        try:
            network = (features, load_network(features, given.get(features)))
        except MissingNetwork as error:
            missing["fid and kid"] = str(error)
    return tools, (clip, network), missing


def image_size(denoiser: Denoiser) -> int:
    """The height of the pipeline's images in pixels, found by decoding one."""
    return denoiser.decode(denoiser.initial_noise(["size"], 0)).shape[-2]


def check_images(cases: Cases, name: str) -> None:
    """Raise InputError, with the first reason, when no caption has a usable training image."""
    if not any(len(case.images) for case in cases.cases):
        reason = cases.notes[0] if cases.notes else "the list is empty"
        raise InputError(f"{name}: no training image can be used ({reason})")


def seen_in(cases: Cases, located: PromptSet) -> list[bool]:
    """Which captions are among the located ones, or share a duplicate group with one."""
    texts = located.texts
    joint = duplicate_groups([*texts, *cases.texts])
    groups = set(joint[: len(texts)])
    direct = [group in groups for group in joint[len(texts) :]]
    tainted = {case.group for case, seen in zip(cases.cases, direct, strict=True) if seen}
    return [case.group in tainted for case in cases.cases]


def removed_share(original: nn.Module, treated: nn.Module) -> tuple[Removed | None, float]:
    """What was taken out of the feed-forwards, ("neurons" | "weights" | None, share).

    Neurons: blocks are narrower, or columns of the second linear are zero that were not. Weights:
    single entries are.
    """
    before, after = find_sites(original), find_sites(treated)
    kept = total = zeros = entries = columns = 0
    for path, site in before.items():
        if path not in after:
            raise InputError(f"--original: has a feed-forward at {path} that MODEL lacks")
        old = site.contraction.weight.detach()[:, site.columns]
        new = after[path].contraction.weight.detach()[:, after[path].columns]
        total += site.neurons
        entries += old.numel()
        alive = int((new != 0).any(0).sum())
        kept += alive
        columns += site.neurons - alive
        if new.shape == old.shape:
            zeros += int(((new == 0) & (old.to(new.device) != 0)).sum())
    if columns:
        return "neurons", 1 - kept / total
    return ("weights", zeros / entries) if zeros else (None, 0.0)


def shifted(original: nn.Module, treated: nn.Module) -> bool:
    """Whether a feed-forward's last bias differs: then what was removed was compensated."""
    after = find_sites(treated)
    for path, site in find_sites(original).items():
        old, new = site.contraction.bias, after[path].contraction.bias
        if (old is None) != (new is None):
            return True
        if old is not None and new is not None and not torch.equal(old, new.to(old.device)):
            return True
    return False


def given(original: Denoiser, treated: Denoiser) -> Mitigation:
    """A model made beforehand, as a mitigation. Its controls are compensated where it is."""
    kind, share = removed_share(original.model, treated.model)
    compensated = kind is not None and shifted(original.model, treated.model)

    def apply(setting: Setting) -> Treated:
        mean = reference_means(setting) if compensated else {}
        return Treated(treated, removed=share, mean=mean)

    return Mitigation("model", "given", "weights", apply, kind)
