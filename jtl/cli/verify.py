"""`jtl verify-resume`: shows whether a run that is killed ends as one that is not."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def verify_resume(
    config: str,
    *,
    kills: int = 3,
    steps: int = 40,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    workdir: Path | None = None,
) -> None:
    """Train a short run, kill and resume the same run, and say whether every bit agrees.

    Example: `jtl verify-resume digits --kills 5`.

    Compares which examples each step took, every leaf of the last checkpoint, the records and the
    summary. Prints PASS, or FAIL and what differs first; the exit status is 0 or 1. Your own runs
    are left alone.

    Args:
        config: the name of a bundled recipe, or a YAML file.
        kills: how often the second run is killed, at random times.
        steps: how long the run is, which is cut short.
        set_: one option by its dotted key, such as `data.batch_size=32`; may be repeated.
        workdir: where a folder is made for both runs, to try that file system; it is removed at
            the end, but for where they differ. That of the system's temporary files by default.
    """
    from contextlib import nullcontext

    from jtl.cli.console import make_console
    from jtl.experiment.options import read_config
    from jtl.study.verify.check import verify_resume as check

    options = read_config(config, set_)
    console = make_console()
    console.print(f"verify   {options.name}: {steps} steps, left alone and with {kills} kills")
    with console.status("starting") if console.is_terminal else nullcontext() as status:
        verdict = check(
            options,
            kills=kills,
            steps=steps,
            folder=workdir,
            tell=lambda line: console.print(f"         {line}"),
            show=lambda line: status.update(line) if status is not None else None,
        )
    if verdict.differences:
        for number, line in enumerate(verdict.differences):
            console.print(f"{'         ' if number else 'FAIL     '}{line}")
        console.print(f"         both runs are in {verdict.folder}")
        sys.exit(1)
    console.print(
        f"PASS     {verdict.steps} steps, {verdict.kills} kills: the same examples in the same "
        f"order, {verdict.leaves} leaves of {verdict.numbers:,} numbers, records and summary"
    )
