"""The typer application and its commands."""

from typing import Annotated

import typer

from memfast.cli.command import Command, speaking
from memfast.cli.doctor import doctor
from memfast.cli.finding import audit, check, collect, families, locate, merge, plan
from memfast.cli.guarding import calibrate, generate, index
from memfast.cli.proving import attack, compare, demo, evaluate, report
from memfast.cli.treating import compact, make_safe, prune, repair

HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)


def _version(asked: bool | None) -> None:
    if asked:
        from memfast.version import __version__

        typer.echo(f"memfast {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool | None,
        typer.Option("--version", help="Print the version.", callback=_version, is_eager=True),
    ] = None,
) -> None:
    """Find, remove and verify memorization in the feed-forward neurons of diffusion models."""


COMMANDS = {
    "doctor": doctor,
    "check": check.check,
    "demo": demo.demo,
    "plan": plan.plan,
    "collect": collect.collect,
    "locate": locate.locate,
    "prune": prune.prune,
    "compact": compact.compact,
    "families": families.families,
    "evaluate": evaluate.evaluate,
    "compare": compare.compare,
    "attack": attack.attack,
    "repair": repair.repair,
    "make-safe": make_safe.make_safe,
    "audit": audit.audit,
    "calibrate": calibrate.calibrate,
    "generate": generate.generate,
    "index": index.index,
    "merge": merge.merge,
    "report": report.report,
}
for name, command in COMMANDS.items():
    app.command(name, cls=Command, context_settings=HELP)(speaking(command))
