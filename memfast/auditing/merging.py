"""merge: write the results of an audit whose blocks were computed in shards."""

from pathlib import Path

from memfast.auditing.calibration import Calibration
from memfast.auditing.inputs import Audited, Prompts
from memfast.auditing.outcome import Outcome, finish
from memfast.auditing.storing import manifest
from memfast.errors import InputError


def merge(out: str | Path, prompts: Prompts | None = None) -> Outcome:
    """Write the results of an audit whose blocks were computed in shards.

    prompts: the audited prompts, where they came from no file or the file has moved.
    Raises InputError while blocks are missing, and for prompts other than the audited ones.
    """
    out = Path(out)
    manifest.check_audit(out)
    with manifest.opened(out) as run:
        found = run.read()
        source = prompts
        if source is None:
            if found["prompts"]["path"] is None:
                raise InputError(f"{out}: its prompts came from no file; pass them (--prompts)")
            source = out / found["prompts"]["path"]
            if not source.exists():
                raise InputError(f"{source}: its prompts are not there; pass them (--prompts)")
        audited = Audited.open(source, found["prompts"]["column"], max_rejected=2**62)
        if audited.index.digest != found["identity"]["prompts"]:
            raise InputError(f"{source}: its prompts are not those that {out} was made with")
        calibration = Calibration.load(out / manifest.CALIBRATION, run.hash)
        missing = manifest.blocks(run, calibration.digest).missing()
        if missing:
            raise InputError(
                f"{out}: {len(missing)} blocks are missing (the first is {missing[0]}): "
                "run the same audit again, without --shard or with the missing ones"
            )
        return finish(run, audited, calibration)
