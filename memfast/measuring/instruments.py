"""What a run needs besides its prompts: metrics, networks, and facts about the models compared."""

from collections.abc import Mapping, Sequence

import torch

from memfast.errors import InputError
from memfast.files import there
from memfast.measuring.cases import Cases
from memfast.measuring.groups import duplicate_groups
from memfast.measuring.networks.backbones import Embed, MissingNetwork
from memfast.measuring.networks.clip import ClipScorer
from memfast.measuring.networks.table import NETWORKS, load_network
from memfast.measuring.similarity import METRICS, Toolbox, toolbox
from memfast.prompts import PromptSet

Networks = tuple[ClipScorer | None, tuple[str, Embed] | None]


def instruments(
    metrics: Sequence[str] | None,
    weights: Mapping[str, str] | None,
    features: str | None,
    device: torch.device | None = None,
) -> tuple[Toolbox, Networks, dict[str, str]]:
    """The metrics that can run, (CLIP scorer, feature network), and {name: why it is missing}.

    All compute on `device`.

    Raises InputError for unknown names of metrics, features or weights, and weights not there.
    """
    for what, names, legal in (
        ("metrics", metrics or (), METRICS),
        ("weights", weights or (), NETWORKS),
        ("features", [features] if features else (), NETWORKS),
    ):
        for name in names:
            if name not in legal:
                raise InputError(f"{what}: {name!r} is none of {', '.join(legal)}")
    for name, path in (weights or {}).items():
        there(path, "file or folder", f"weights {name}={path}")
    tools = toolbox(None if metrics is None else tuple(metrics), weights, device)
    missing = dict(tools.missing)
    given = dict(weights or {})
    clip = network = None
    try:
        clip = ClipScorer(given.get("clip"), device)
    except MissingNetwork as error:
        missing["clip score"] = str(error)
    if features is not None:
        try:
            network = (features, load_network(features, given.get(features), device))
        except MissingNetwork as error:
            missing["fid and kid"] = str(error)
    return tools, (clip, network), missing


def check_images(cases: Cases, name: str) -> None:
    """Raise InputError, with the first reason, when no caption has a usable training image."""
    if not any(len(case.images) for case in cases.cases):
        reason = cases.notes[0] if cases.notes else "the list is empty"
        raise InputError(f"{name}: no training image can be used ({reason})")


def check_ids(cases: Cases, name: str) -> None:
    """Raise InputError for captions that share an id: what is found is kept by it."""
    ids = cases.ids
    for place, same in enumerate(ids):
        if (first := ids.index(same)) != place:
            texts = " and ".join(repr(cases.texts[each][:40]) for each in (first, place))
            raise InputError(f"{name}: the id {same!r} is given to two captions: {texts}")


def seen_in(cases: Cases, located: PromptSet) -> list[bool]:
    """Which captions are among the located ones, or share a duplicate group with one."""
    texts = located.texts
    joint = duplicate_groups([*texts, *cases.texts])
    groups = set(joint[: len(texts)])
    direct = [group in groups for group in joint[len(texts) :]]
    tainted = {case.group for case, seen in zip(cases.cases, direct, strict=True) if seen}
    return [case.group in tainted for case in cases.cases]
