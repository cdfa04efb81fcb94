"""memfast merge DIR, or memfast merge A B … --out S.safetensors"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memfast.cli import options
from memfast.errors import InputError

if TYPE_CHECKING:
    from memfast.statistics import NeuronStatistics


def merge(
    sources: Annotated[
        list[Path], typer.Argument(metavar="DIR | FILES", help="An audit, or statistics files.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Merged statistics file.")] = None,
    across_lists: Annotated[
        bool, typer.Option("--across-lists", help="Join prompts of lists that are named otherwise.")
    ] = False,
    prompts: Annotated[
        Path | None, typer.Option(help="Where an audit's list is now, if it has moved.")
    ] = None,
    overwrite: options.Overwrite = False,
    config: options.Config = None,
) -> None:
    """Finish an audit whose shards are done, or merge statistics files of several runs."""
    if len(sources) == 1 and sources[0].is_dir():
        from memfast.auditing.merging import merge as finish_audit
        from memfast.cli.finding.audit import show

        if out is not None:
            raise InputError(f"--out {out}: an audit is merged in its own folder")
        show(finish_audit(sources[0], prompts))
        return
    from memfast.cli.console import console
    from memfast.cli.one_file import check_file, finish_file
    from memfast.errors import some
    from memfast.files import there
    from memfast.statistics import NeuronStatistics, shared_prompts

    if prompts is not None:
        raise InputError(f"--prompts {prompts}: only of an audit's folder")
    for path in sources:
        there(path, "folder" if len(sources) == 1 else "file")
    if len(sources) < 2:
        raise InputError(f"{sources[0]}: give an audit's folder, or at least two statistics files")
    if out is None:
        raise InputError("--out: name the file to write")
    check_file(out, overwrite)
    merged = NeuronStatistics.load(sources[0])
    joined = {sources[0].name: _told(merged)}
    for path in sources[1:]:
        more = NeuronStatistics.load(path)
        if shared := shared_prompts(merged, more):
            raise InputError(f"{path}: prompts that an earlier file holds: {some(shared)}")
        lists = [*_lists(merged), *_lists(more)]
        if not across_lists and len({_numbered(name) for name in lists}) > 1:
            raise InputError(
                f"{path}: of the list {some(_lists(more))}, and {sources[0]} of "
                f"{some(_lists(merged))}; --across-lists joins them, and nothing tells their "
                "prompts apart again"
            )
        joined[path.name] = _told(more)
        try:
            merged += more
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    summary = {"files": len(sources), "prompts": merged.header.get("prompts", 0)}
    finish_file(out, merged.save, "merged", summary | {"joined": joined}, overwrite)
    for name, what in joined.items():
        console.print(f"{name}: {what}", highlight=False, soft_wrap=True)


def _lists(statistics: "NeuronStatistics") -> list[str]:
    return statistics.header.get("lists", [])


def _told(statistics: "NeuronStatistics") -> str:
    """What a file holds, for people."""
    lists = ", ".join(dict.fromkeys(_lists(statistics))) or "a list that it does not name"
    return f"{statistics.header.get('prompts', 0):,} of {lists}"


def _numbered(name: str) -> str:
    """What the parts of one list have in common: their name without its numbers."""
    return re.sub(r"\d+", "", name)
