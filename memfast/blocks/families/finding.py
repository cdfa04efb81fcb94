"""Find the feed-forward blocks of a model."""

from collections.abc import Iterator
from typing import TypeVar

from torch import nn

from memfast.blocks.families.layout import Site
from memfast.blocks.families.table import FAMILIES, LEFT_ALONE
from memfast.errors import InputError

Model = TypeVar("Model", bound=nn.Module)
_UNET_ORDER = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}


def find_sites(model: nn.Module) -> dict[str, Site]:
    """Every feed-forward block of `model`, keyed by module path, in execution order where known.

    A model wrapped by `torch.compile` is looked into.
    Raises InputError, listing the families, if the model has none.
    """
    model = uncompiled(model)
    sites = dict(_sites(model))
    if not sites:
        known = "; ".join(f"{' + '.join(f.expand)} -> {f.contract} ({f.models})" for f in FAMILIES)
        raise InputError(
            f"{type(model).__name__} has no feed-forward block of a known family: {known}"
        )
    return dict(sorted(sites.items(), key=lambda item: _UNET_ORDER.get(item[0].split(".")[0], -1)))


def uncompiled(model: Model) -> Model:
    """The model that `torch.compile` wrapped, or the model itself."""
    return getattr(model, "_orig_mod", model)


def _sites(model: nn.Module) -> Iterator[tuple[str, Site]]:
    for path, block in model.named_modules():
        for family in FAMILIES if block._modules else ():
            if (layout := family.layout(block)) is not None:
                if LEFT_ALONE.isdisjoint(path.split(".")):
                    yield path, Site(path, block, layout, family)
                break


def ffn_sites(model: nn.Module) -> dict[str, int]:
    """Module path of each feed-forward block -> its number of inner neurons."""
    return {path: site.neurons for path, site in find_sites(model).items()}
