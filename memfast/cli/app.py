"""The typer application and its commands."""

import typer

from memfast.cli.command import Command
from memfast.cli.finding import audit, collect, families, locate, merge
from memfast.cli.proving import attack, demo, evaluate
from memfast.cli.treating import compact, prune, repair

app = typer.Typer(
    help="Find, remove and verify memorization in the feed-forward neurons of diffusion models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
COMMANDS = {
    "demo": demo.demo,
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
}
for name, command in COMMANDS.items():
    app.command(name, cls=Command)(command)
