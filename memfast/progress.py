"""How long work says where it is: a stage is opened with a label and a total, then advanced."""

from collections.abc import Callable

Advance = Callable[[int], None]
Stage = Callable[[str, int], Advance]


def silent(label: str, total: int) -> Advance:
    """A stage that shows nothing."""
    return lambda done: None


def shown(label: str, total: int) -> Advance:
    """A stage as a bar: on stderr, or a widget of a notebook."""
    from tqdm.auto import tqdm

    bar = tqdm(total=total, desc=label)

    def advance(done: int) -> None:
        bar.update(done)
        if bar.n >= total:
            bar.close()

    return advance


def stages(progress: bool | Stage) -> Stage:
    """What opens the stages of a function that was given `progress`."""
    return progress if callable(progress) else shown if progress else silent


def only_stage(progress: bool | Advance, label: str, total: int) -> Advance:
    """The same for a function of one stage, which may be given what advances it."""
    return progress if callable(progress) else stages(progress)(label, total)
