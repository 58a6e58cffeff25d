"""`jtl crossval`: train on all folds but one, for each of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from jtl.study.crossval import CrossValidation


def crossval(
    config: str,
    *,
    folds: int = 5,
    repeats: int = 1,
    group: str | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    workdir: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    separately: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Cross-validate a config: train on all folds but one, for each of them.

    Example: `jtl crossval digits --folds 5 --set augment={}`.

    Folds part what `jtl train` would train and validate on, in the proportions of the classes;
    the test split stays out of it. Where the backbone is frozen and images are not varied, all
    folds of a repeat train at once.

    Args:
        config: the name of a bundled recipe, or a YAML file.
        folds: how many.
        repeats: how often the examples are dealt out anew, each time with another seed.
        group: the column of a manifest whose equal values stay in one fold.
        set_: one option by its dotted key, such as `data.batch_size=32`; may be repeated.
        workdir: the folder; `runs/NAME-crossval` by default.
        resume: go on where that folder's folds ended.
        separately: train fold by fold, each in a run's folder of its own.
    """
    from jtl.cli.console import make_console
    from jtl.cli.memory import prepare_computing
    from jtl.experiment.options import read_config
    from jtl.study.crossval import Announcement, Fold
    from jtl.study.crossval import crossval as cross_validate

    options = read_config(config, (*set_, *([f"data.group={group}"] if group else [])))
    console = make_console()
    prepare_computing()

    def tell(said: Announcement | Fold) -> None:
        if isinstance(said, Announcement):
            how = "all of a repeat at once"
            if said.separately is not None:
                how = f"one by one: {said.separately}"
            console.print(f"crossval {options.name}: {said.total} folds, {how}")
            if said.done:
                console.print(f"resumed  {said.done} of them are there already")
            return
        console.print(
            f"repeat {said.repeat}  fold {said.fold}  {len(said.examples)} examples left out, "
            f"step {said.best_step}: loss {said.metrics['loss']:.4f}, "
            f"accuracy {said.metrics['accuracy']:.4f}"
        )

    with console.status("training") if console.is_terminal else _quietly():
        result = cross_validate(
            options,
            folds=folds,
            repeats=repeats,
            workdir=workdir,
            resume=resume,
            together=not separately,
            tell=tell,
        )
    _show(console, result)


def _quietly() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def _show(console: Any, result: "CrossValidation") -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric")
    for name in ("mean", "std", "95 % interval"):
        table.add_column(name, justify="right")
    for name, own in result.metrics.items():
        interval = f"{own.low:.4f} to {own.high:.4f}"
        table.add_row(name, f"{own.mean:.4f}", f"{own.std:.4f}", interval)
    console.print(table)
    console.print(f"all in {result.workdir}: crossval.json, predictions.csv")
