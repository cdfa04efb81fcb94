"""How wide each feed-forward is to be: multiples that hardware likes, few widths for compilers."""

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from memfast.blocks.families import Site
from memfast.errors import InputError
from memfast.selection import Subspace

Widths = dict[str, int]
_log = logging.getLogger("memfast")


def widths_of(
    sites: Mapping[str, Site],
    subspace: Subspace,
    multiple_of: int = 8,
    buckets: int | None = None,
    down: bool = False,
) -> Widths:
    """The width of each site without the subspace's neurons, rounded to a multiple.

    Up (the default) or down; never more than there are, never none. With `buckets`, at most so many
    different widths over the model (blocks that differ in channels never share one), chosen so that
    the fewest neurons are added or lost. Raises InputError for a multiple or a number below 1.
    """
    if multiple_of < 1:
        raise InputError(f"multiple_of must be at least 1, not {multiple_of}")
    kept = {path: int((~subspace.neurons[path]).sum()) for path in sites}
    widths = {
        path: round_to(kept[path], multiple_of, site.neurons, down) for path, site in sites.items()
    }
    if buckets is None:
        return widths
    kinds = {
        path: (site.family.name, len(site.contraction.weight), site.neurons)
        for path, site in sites.items()
    }
    return bucketed(widths, kinds, buckets, down)


def round_to(kept: int, multiple: int, limit: int, down: bool = False) -> int:
    """The next multiple at or above (or below) `kept`, within one multiple and `limit`."""
    multiples = kept // multiple if down else -(-kept // multiple)
    return min(max(1, multiples) * multiple, limit)


def bucketed(
    widths: Mapping[str, int], kinds: Mapping[str, Hashable], buckets: int, down: bool = False
) -> Widths:
    """At most `buckets` different (kind, width) pairs, at the least total change.

    Up: a group takes its largest width; down: its smallest. Raises InputError for fewer buckets
    than kinds.
    """
    order = sorted(widths, key=lambda path: (str(kinds[path]), widths[path]))
    if buckets < (least := len(set(kinds.values()))):
        raise InputError(f"buckets must be at least {least}, one a kind of block, not {buckets}")
    groups = _groups(
        [widths[path] for path in order], [kinds[path] for path in order], buckets, down
    )
    pick: Callable[[Sequence[int]], int] = min if down else max
    result = {}
    for start, end in groups:
        width = pick([widths[path] for path in order[start:end]])
        result |= dict.fromkeys(order[start:end], width)
    return {path: result[path] for path in widths}


def _groups(
    widths: Sequence[int], kinds: Sequence[Hashable], buckets: int, down: bool
) -> list[tuple[int, int]]:
    """Consecutive (start, end) groups of one kind each, the cheapest with at most `buckets`."""
    best: list[dict[int, tuple[int, list[tuple[int, int]]]]] = [{0: (0, [])}]
    for end in range(1, len(widths) + 1):
        found: dict[int, tuple[int, list[tuple[int, int]]]] = {}
        for start in range(end - 1, -1, -1):
            if kinds[start] != kinds[end - 1]:
                break
            group = widths[start:end]
            cost = (
                sum(group) - len(group) * group[0] if down else len(group) * group[-1] - sum(group)
            )
            for used, (before, groups) in best[start].items():
                if used < buckets and before + cost < found.get(used + 1, (1 << 62, []))[0]:
                    found[used + 1] = (before + cost, [*groups, (start, end)])
        best.append(found)
    return min(best[-1].values(), key=lambda entry: entry[0])[1]


def round_down(
    sites: Mapping[str, Site],
    subspace: Subspace,
    ranking: Mapping[str, Float[Tensor, " neurons"]],
    multiple_of: int = 8,
    buckets: int | None = None,
) -> Subspace:
    """The subspace with more neurons, the least of `ranking`, so that all widths come out even."""
    widths = widths_of(sites, subspace, multiple_of, buckets, down=True)
    masks = dict(subspace.neurons)
    for path, width in widths.items():
        removed = masks[path].clone()
        order = ranking[path].cpu().masked_fill(removed, float("-inf")).argsort(stable=True)
        removed[order[: max(0, len(removed) - width)]] = True
        masks[path] = removed
    return Subspace(masks, mean=subspace.mean, header=subspace.header)


def output_norms(sites: Mapping[str, Site]) -> dict[str, Float[Tensor, " neurons"]]:
    """A ranking where nothing better is known: the norm of each neuron's output column."""
    return {path: site.weight.detach().float().norm(dim=0).cpu() for path, site in sites.items()}


def warn_of_little_gain(subspace: Subspace, widths: Widths) -> str | None:
    """What to say, and log, where rounding up gives back more than half of the removed neurons."""
    total = sum(subspace.neurons[path].numel() for path in widths)
    gone = total - sum(widths.values())
    if not subspace.removed or 2 * gone >= subspace.removed:
        return None
    message = (
        f"rounding widths up leaves {gone:,} of {subspace.removed:,} removed neurons out: "
        "a smaller multiple_of, more buckets or rounding down would keep the gain"
    )
    _log.warning(message)
    return message
