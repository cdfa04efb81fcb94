"""The typer application and its commands."""

from typing import Annotated

import typer

from memfast.cli.command import Command, speaking
from memfast.cli.finding import audit, collect, families, locate, merge, plan
from memfast.cli.proving import attack, demo, evaluate, report
from memfast.cli.treating import compact, prune, repair

HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)


def _version(asked: bool) -> bool:
    if asked:
        from memfast.version import __version__

        typer.echo(f"memfast {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Find, remove and verify memorization in the feed-forward neurons of diffusion models."""


COMMANDS = {
    "demo": demo.demo,
    "plan": plan.plan,
    "collect": collect.collect,
    "locate": locate.locate,
    "prune": prune.prune,
    "compact": compact.compact,
    "families": families.families,
    "evaluate": evaluate.evaluate,
    "attack": attack.attack,
    "repair": repair.repair,
    "audit": audit.audit,
    "merge": merge.merge,
    "report": report.report,
}
for name, command in COMMANDS.items():
    app.command(name, cls=Command, context_settings=HELP)(speaking(command))
