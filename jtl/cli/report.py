"""`jtl report`: a run in one page, several runs compared in one, or a run while it trains."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def report(
    workdir: str,
    others: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    /,
    *,
    output: Path | None = None,
    live: Annotated[bool, Parameter(negative="")] = False,
    every: int = 10,
) -> None:
    """Write a run's report, or compare several runs in one page.

    Example: `jtl report runs/digits`, or `jtl report runs/a runs/b --output both.html`.

    Args:
        workdir: the run's folder or address; `report.html` and `plots/` in it are written anew.
        others: further runs, to compare with the first.
        output: the page that compares; `comparison.html` by default.
        live: follow a run that is still training, until it ends; its page reads itself again.
        every: seconds between two writings of a live page.

    Raises:
        ConfigError: options that exclude each other.
    """
    from jtl.errors import ConfigError
    from jtl.training.storage import is_address

    if others and live:
        raise ConfigError("--live follows one run; name one folder.")
    if output is not None and not others:
        raise ConfigError(
            f"--output is the page that compares runs; the report of {workdir} is written into it."
        )
    if every < 1:
        raise ConfigError(f"--every {every}: give at least 1 second.")
    if others:
        from jtl.report.compare import compare_runs

        print(compare_runs((workdir, *others), output or Path("comparison.html")))
        return
    if live:
        if is_address(workdir):
            raise ConfigError(f"--live follows a run in a folder, and {workdir} is an address.")
        _follow(Path(workdir), every)
    from jtl.cli.memory import prepare_computing
    from jtl.report.run import load_run

    prepare_computing()
    print(load_run(workdir).report())


def _follow(workdir: Path, every: int) -> None:
    from jtl.report.live import follow, write_live

    if not (workdir / "summary.json").exists():
        print(f"open {write_live(workdir, every)} in a browser; the run is followed until it ends")
    follow(workdir, every)
