"""memfast merge DIR, or memfast merge A B … --out S.safetensors"""

from pathlib import Path
from typing import Annotated

import typer

from memfast.cli import options
from memfast.errors import InputError


def merge(
    sources: Annotated[
        list[Path], typer.Argument(metavar="DIR | FILES", help="An audit, or statistics files.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Merged statistics file.")] = None,
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
    from memfast.cli.one_file import check_file, finish_file
    from memfast.errors import some
    from memfast.statistics import NeuronStatistics, shared_prompts

    if prompts is not None:
        raise InputError(f"--prompts {prompts}: only of an audit's folder")
    if len(sources) < 2:
        raise InputError(f"{sources[0]}: give an audit's folder, or at least two statistics files")
    if out is None:
        raise InputError("--out: name the file to write")
    check_file(out, overwrite)
    merged = NeuronStatistics.load(sources[0])
    for path in sources[1:]:
        more = NeuronStatistics.load(path)
        if shared := shared_prompts(merged, more):
            raise InputError(f"{path}: prompts that an earlier file holds: {some(shared)}")
        try:
            merged += more
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    summary = {"files": len(sources), "prompts": merged.header.get("prompts", 0)}
    finish_file(out, merged.save, "merged", summary, overwrite)
