"""`jtl tune`: search for the options that serve best."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from jtl.study.search.result import HeldOut, Result
    from jtl.study.search.search import Began
    from jtl.study.search.trial import Trial

_SHOWN = 10


def tune(
    config: str,
    *,
    space: Path,
    method: Literal["grid", "random", "optuna", "hyperopt"],
    trials: int | None = None,
    minutes: float | None = None,
    folds: int | None = None,
    nested: int | None = None,
    metric: str = "val/accuracy",
    sampler: str | None = None,
    pruner: str = "none",
    storage: str | None = None,
    study: str | None = None,
    seed: int = 0,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    workdir: Path | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    separately: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Search for the options that serve best, by the validation split or by folds.

    Example: `jtl tune digits_fewshot --space space.yaml --method optuna --trials 30`.

    A space names options by their dotted keys, one a line, such as
    `train.phases.0.schedule.rate: {kind: log_uniform, low: 1e-3, high: 1e-1}`. The defaults are
    measured first; no trial looks at the test split, by which the winner is judged once. The same
    command with `--resume`, in several processes, lets them share one study.

    Args:
        config: the name of a bundled recipe, or a YAML file.
        space: a YAML file of `choice`, `uniform`, `log_uniform` and `integer` parameters.
        method: what proposes trials.
        trials: how many in all; 20 by default, and all points of a grid.
        minutes: begin no trial after so many.
        folds: judge each trial by so many folds, in place of the validation split.
        nested: search anew within each of so many outer folds, which says what the search is
            worth.
        metric: of the validation split.
        sampler: of Optuna, any by its name (`tpe`), or of Hyperopt (`tpe`, `random`, `anneal`).
        pruner: `median`; with Optuna also `hyperband` or `halving`.
        storage: where Optuna keeps the study: a database's URL or `journal:FILE`.
        study: the study's name there; the config's by default.
        seed: of the method.
        set_: one option by its dotted key, such as `data.batch_size=32`; may be repeated.
        workdir: the study's folder; `runs/NAME-METHOD` by default.
        resume: go on with the study in that folder; safe to say again and again.
        separately: train each trial by itself, even where many could train in one program.
    """
    from jtl.cli.console import make_console
    from jtl.experiment.options import read_config
    from jtl.report.study import write_study_page
    from jtl.study.search.plan import Plan
    from jtl.study.search.search import Began, search
    from jtl.study.search.space import read_space

    plan = Plan(
        config=read_config(config, set_),
        space=read_space(space),
        method=method,
        metric=metric if "/" in metric else f"val/{metric}",
        trials=trials,
        minutes=minutes,
        folds=folds,
        nested=nested,
        sampler=sampler,
        pruner=pruner,
        storage=storage,
        name=study,
        seed=seed,
        together=not separately,
    )
    console = make_console()

    def tell(said: "Began | Trial") -> None:
        console.print(_began(said) if isinstance(said, Began) else _ended(said))

    result = search(plan, workdir, resume=resume, tell=tell)
    write_study_page(result)
    _show(console, result)


def _began(said: "Began") -> str:
    outer = "" if said.outer is None else f"outer fold {said.outer}, "
    done = f", {said.done} of them done before" if said.done else ""
    how = "many at once" if said.separately is None else f"one by one: {said.separately}"
    if said.unpruned:
        how += "; they end together, so that none is pruned (--separately trains one by one)"
    return f"study    {outer}{said.trials} trials{done}, in {_near(said.folder)}\ntrained  {how}"


def _ended(trial: "Trial") -> str:
    name = "defaults" if trial.number < 0 else f"trial {trial.number}"
    if trial.value is not None:
        end = f"{trial.value:.4f}"
    else:
        end = trial.status + (f": {trial.reason}" if trial.reason else "")
    words = ", ".join(f"{_short(key)}={_value(own)}" for key, own in trial.assignments.items())
    return f"{name:9}{f'{words}: ' if words else ''}{end} ({trial.seconds:.1f} s)"


def _show(console: Any, result: "Result") -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    names = list(result.plan.space.parameters)
    for name in ("trial", result.plan.metric, "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in names:
        table.add_column(_short(name))
    best = result.best[:_SHOWN]
    for trial in [*best, result.defaults]:
        name = "defaults" if trial.number < 0 else str(trial.number)
        value = trial.status if trial.value is None else f"{trial.value:.4f}"
        own = ["" if each is None else _value(each) for each in result.values(trial)]
        table.add_row(name, value, _interval(trial.interval), *own)
    console.print()
    console.print(table)
    counts = ", ".join(f"{count} {status}" for status, count in result.counts.items())
    console.print(f"\ntrials   {counts}")
    which = "the defaults" if result.winner.number < 0 else f"trial {result.winner.number}"
    chosen = f"the best of {result.compared}, and so optimistic"
    console.print(f"winner   {which}: {result.plan.metric} {result.winner.value:.4f} ({chosen})")
    if result.held_out is None:
        console.print("         no test split says what it is worth; set data.split.test above 0")
    else:
        console.print(f"         test/{result.plan.objective.metric} {_judged(result.held_out)}")
    if result.defaults_held_out is not None and result.winner.number >= 0:
        console.print(f"defaults test/{result.plan.objective.metric} "
                      f"{_judged(result.defaults_held_out)}")  # fmt: skip
    if result.nested is not None:
        spread = result.nested
        interval = _interval((spread.low, spread.high))
        console.print(
            f"nested   such a search yields {spread.mean:.4f} ({interval}) on "
            "examples that it has not seen"
        )
    if result.elsewhere:
        console.print(f"         {len(result.elsewhere)} trials lie on other machines")
    folder = _near(result.folder)
    console.print(f"all in   {folder}: study.json, trials.csv, report.html")
    console.print(f"next     jtl train {folder / 'best.yaml'} --workdir runs/best")


def _near(folder: Path) -> Path:
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _judged(found: "HeldOut") -> str:
    return f"{found.value:.4f} ({_interval(found.interval)}), which nothing was chosen by"


def _interval(interval: tuple[float, ...] | None) -> str:
    return "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _short(key: str) -> str:
    return key.removeprefix("train.phases.")


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
