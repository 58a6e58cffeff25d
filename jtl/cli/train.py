"""`jtl train`: trains a recipe or a config file, or goes on with a run."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.console import Console

    from jtl.experiment import Run
    from jtl.experiment.options import Config
    from jtl.training.kept_programs import KeptPrograms


def train(
    config: str,
    *,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    workdir: str | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    allow: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    find_rate: Annotated[bool, Parameter(negative="")] = False,
    show_batch: Path | None = None,
    print_config: Annotated[bool, Parameter(negative="")] = False,
    distributed: Annotated[bool, Parameter(negative="")] = False,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    wait: float = 300.0,
    report: bool = True,
) -> None:
    """Train a recipe that comes with jtl, or a config file of your own.

    Example: `jtl train digits --set train.phases.0.epochs=3 --workdir runs/mine`.

    Args:
        config: the name of a bundled recipe, or a YAML file.
        set_: one option by its dotted key, such as `data.batch_size=32`; may be repeated.
        workdir: the run's folder, `runs/NAME` by default; or an address of object storage, such as
            `gs://bucket/runs/mine` or `s3://bucket/runs/mine`.
        resume: go on with the run in that folder; safe to say again and again.
        allow: the dotted key of an option that may have changed since; may be repeated.
        find_rate: try the first phase at rising rates, suggest one, and train nothing; no folder
            is made.
        show_batch: draw the first batch into this picture, cropped and augmented, with its
            labels, and train nothing.
        print_config: print every option as it would be used, and train nothing.
        distributed: be one of several processes, as SLURM, Open MPI, a TPU pod or Kubernetes
            says.
        coordinator: `HOST:PORT` of process 0, where nothing else says it.
        processes: how many there are.
        process: which one this is, from 0.
        wait: how long to wait for the other processes, in seconds.
        report: write `report.html` at the end.
    """
    from jtl.cli.memory import run_where_called

    several = distributed or (coordinator, processes, process) != (None, None, None)
    if not several:  # whose steps wait for each other, and are not to hold up what else there is
        run_where_called()
    trains = not (print_config or find_rate or show_batch)
    with _programs(config, *set_) if trains and not several else nullcontext() as programs:
        from jtl.cli.together import joined
        from jtl.config import to_yaml
        from jtl.experiment.options import read_config

        options = read_config(config, set_)
        if print_config:
            print(to_yaml(options), end="")
        elif show_batch is not None:
            _draw(options, show_batch)
        else:
            with joined(coordinator, processes, process, wait) if several else nullcontext():
                if find_rate:
                    _search(options)
                else:
                    _train(options, workdir, resume, allow, report, programs)


def _programs(*run: str) -> "KeptPrograms":
    """The steps that this command compiled before, read while all else is imported."""
    from jtl.training.kept_programs import KeptPrograms

    return KeptPrograms.of(*run)


def _draw(options: "Config", path: Path) -> None:
    from jtl.experiment.show_batch import show_batch

    print(f"{path}: {show_batch(options, path)} images of the first batch")


def _search(options: "Config") -> None:
    from jtl.cli.rates import show_search
    from jtl.experiment.find_rate import search_rate

    show_search(search_rate(options))


def _train(
    options: "Config",
    workdir: str | None,
    resume: bool,
    allow: tuple[str, ...],
    report: bool,
    programs: "KeptPrograms | None",
) -> None:
    from jtl.cli.console import Live, announce, make_console
    from jtl.cli.result import show_result
    from jtl.errors import ConfigError
    from jtl.experiment import train as run_training
    from jtl.training.logs import import_tensorboard
    from jtl.training.together import is_first

    if workdir is not None and workdir.startswith("memory:"):
        raise ConfigError(
            f"--workdir {workdir} lies in this command's memory and would be gone at its end; give "
            "a folder, or an address of object storage (gs://, s3://)."
        )
    # A command writes no event into a cloud by itself.
    import_tensorboard("torch", "boto3", "google.cloud.storage")
    console = make_console()
    with Live(console) as live:
        run = run_training(
            options,
            workdir=workdir,
            resume=resume,
            allow=allow,
            announce=lambda setup: announce(console, setup),
            listeners=(live,),
            programs=programs,
        )
    page = _report(console, run) if report and is_first() else None
    show_result(console, run.kept, run.summary, page)


def _report(console: "Console", run: "Run") -> Path | None:
    from jtl.errors import JtlError
    from jtl.report.run import with_report

    try:
        return with_report(run).report()
    except JtlError as error:
        console.print(f"report   not written: {error}")  # the run itself is complete
        return None
