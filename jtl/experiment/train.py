"""Training from a config: assemble, run the loop, evaluate, audit, write the summary."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from jtl.config import digest, options_of
from jtl.data.options import DataOptions
from jtl.data.sources.arrays import from_arrays
from jtl.data.sources.protocol import Source
from jtl.engine.schedules import ScheduleOptions
from jtl.experiment.assemble import Evaluator, make_evaluator
from jtl.experiment.compilation import keep_compiled_programs
from jtl.experiment.conclude import Conclusion, calibration_of, conclude, keep
from jtl.experiment.feed import make_cached_feed
from jtl.experiment.glimpses import first_examples, last_pictures
from jtl.experiment.keeping import keeping
from jtl.experiment.memory import memory_named
from jtl.experiment.options import Config, ModelOptions
from jtl.experiment.place import placed
from jtl.experiment.run import Run, write_model
from jtl.experiment.setup import Setup, set_up
from jtl.experiment.workdir import check_data, check_workdir, data_record, make_workdir
from jtl.training.audit import audit_frozen
from jtl.training.events import Ended, Event, Listener, Pictured, Recovered, Waiting
from jtl.training.files import write_json, write_text
from jtl.training.kept_programs import KeptPrograms
from jtl.training.logs import Records
from jtl.training.loop import Loop, Outcome
from jtl.training.options import PhaseOptions, TrainOptions
from jtl.training.owner import owned
from jtl.training.preemption import Preemption, Stop
from jtl.training.saved_steps import Progress
from jtl.training.shared_checkpoints import Store, open_checkpoints
from jtl.training.together import is_first, on_first
from jtl.training.trackers import About, check_trackers

_NAMED = 100  # examples in the summary that could not be read


def train(
    config: Config,
    *,
    workdir: str | Path | None = None,
    resume: bool = False,
    allow: Sequence[str] = (),
    source: Source | None = None,
    announce: Callable[[Setup], None] | None = None,
    listeners: Sequence[Listener] = (),
    splits: Sequence[str] = ("val", "test"),
    programs: KeptPrograms | None = None,
) -> Run:
    """Trains as the config says, in a folder of its own.

    Args:
        config: what the run is a function of.
        workdir: its folder, `runs/NAME` by default; or an address such as `gs://bucket/run`.
        resume: whether to go on where the folder's run stopped; a folder that does not exist
            yet is begun.
        allow: dotted keys of options that may have changed since the run began.
        source: the examples, in place of those that the config names.
        announce: hears once what is about to be trained.
        listeners: hear of steps, evaluations and the end.
        splits: what is evaluated at the end; one that is not named is never looked at.
        programs: where compiled steps are kept and found, so that the next process traces none of
            them again; None keeps none. For a process that runs jtl as it is installed, as its
            command does: what a program changes in jtl's functions as it runs is not seen.

    Raises:
        ConfigError: the config cannot be carried out here.
        DataError: the examples cannot be used.
        WeightsError: the weights cannot be loaded.
        CheckpointError: the folder holds another run, or cannot be written.
    """
    check_trackers(config.train.log_to)
    listening = listeners if is_first() else ()
    with placed(
        workdir or Path("runs") / config.name,
        resume=resume,
        tell=lambda note: _tell(listening, Waiting(note=note)),
    ) as (folder, mirror):
        on_first(lambda: check_workdir(folder, config, resume=resume, allow=allow))
        keep_compiled_programs()
        with memory_named(config), Preemption(config.train.max_seconds) as stop:
            setup = set_up(config, folder, source, mirror)
            if programs is not None:
                setup = dataclasses.replace(setup, place=keeping(setup.place, programs))
            with owned(folder) if is_first() else nullcontext():
                on_first(lambda: _begin(setup, resume=resume, allow=allow))
                if announce is not None and is_first():
                    announce(setup)
                summary, best = _carry_out(setup, listening, splits, stop)
    return Run(
        workdir=folder,
        config=config,
        summary=summary,
        model=setup.pretrained.model,
        variables=best,
        preprocess=setup.pretrained.preprocess,
        classes=setup.examples.source.classes,
        calibration=calibration_of(summary["best"]),
        source=source,
        address=None if mirror is None else mirror.address,
    )


def _begin(setup: Setup, *, resume: bool, allow: Sequence[str]) -> None:
    folder, pretrained, source = setup.workdir, setup.pretrained, setup.examples.source
    # Once more, because another process may have had the folder since.
    check_workdir(folder, setup.config, resume=resume, allow=allow)
    make_workdir(folder, setup.config)
    write_text(folder / "ledger.json", pretrained.ledger.to_json())
    check_data(folder, source, setup.examples.splits, allow)
    write_json(folder / "data.json", data_record(source, setup.examples.splits))
    write_model(folder, pretrained.model, pretrained.preprocess, source.classes)


def _carry_out(
    setup: Setup, listeners: Sequence[Listener], splits: Sequence[str], stop: Stop
) -> tuple[dict[str, Any], Any]:
    """Trains and sums up; the summary and the best variables."""
    config, pretrained = setup.config, setup.pretrained
    evaluator = make_evaluator(config, pretrained.model, pretrained.preprocess, setup.place)
    about = {"config": digest(config), "weights": pretrained.ledger.path}
    keep = config.train.checkpoint
    with open_checkpoints(setup.workdir, keep, about, setup.mirror) as checkpoints:
        notes = checkpoints.recover(pretrained.variables)
        start = checkpoints.progress() or Progress()
        with _records(setup, start.step) as records:
            heard = (*records, *listeners)
            if notes:
                _tell(heard, Recovered(notes=tuple(notes)))
            if heard and not start.step:
                _tell(heard, *first_examples(setup.examples))
            outcome = _loop(setup, checkpoints, evaluator, heard, stop).run(
                pretrained.variables, config.seed
            )
            checkpoints.wait()
            state, progress = outcome.state, outcome.progress
            audit = audit_frozen(pretrained.variables, state.variables, setup.phases)
            best = final = state.variables if state.ema is None else state.ema_variables
            concluded = last = conclude(evaluator, setup.examples, final, splits)
            if progress.best_step not in (None, progress.step):
                best = checkpoints.variables(progress.best_step, state.variables)
                concluded = conclude(evaluator, setup.examples, best, splits)
            summary = _summary(setup, progress, concluded, last) | {
                "frozen_audit": audit,
                "stopped_early": progress.stopped,
                "step_compilations": list(outcome.compilations),
                "data": _data_record(setup, outcome),
            }
            on_first(lambda: _end(setup.workdir, concluded, summary))
            if heard:
                _tell(heard, *_last_pictures(setup, concluded, summary["best"]["step"]))
            _tell(heard, Ended(summary=summary))
    return summary, best


def _tell(listeners: Sequence[Listener], *events: Event) -> None:
    for event in events:
        for listener in listeners:
            listener(event)


def _last_pictures(setup: Setup, concluded: Conclusion, step: int) -> list[Pictured]:
    found = concluded.predictions
    split = next((name for name in ("test", "val") if name in found), None)
    return [] if split is None else last_pictures(setup.examples, found[split], split, step)


@contextmanager
def _records(setup: Setup, start: int) -> Iterator[tuple[Listener, ...]]:
    """What keeps the records, on the first process alone."""
    if not is_first():
        yield ()
        return
    config, classes = setup.config, setup.examples.source.classes
    about = About(trackers=config.train.log_to, name=config.name, options=options_of(config))
    with Records(setup.workdir, start, classes, about) as records:
        yield (records,)


def _end(workdir: Path, concluded: Conclusion, summary: dict[str, Any]) -> None:
    keep(workdir, concluded)
    write_json(workdir / "summary.json", summary)


def finetune(
    model: str,
    data: str | tuple[np.ndarray, np.ndarray] | Source,
    *,
    weights: str | None = None,
    freeze: str | Sequence[str] = "backbone",
    epochs: float = 5.0,
    rate: float = 1e-3,
    batch_size: int = 32,
    seed: int = 0,
    workdir: str | Path | None = None,
    listeners: Sequence[Listener] = (),
) -> Run:
    """Fine-tunes a pretrained network in one call, with AdamW and a cosine schedule.

    Args:
        model: an architecture, such as `resnet50`.
        data: the name of a source, a pair of images (uint8 `[n, height, width, 3]`) and labels
            (int `[n]`), or any source.
        weights: a file or a catalogue name; by default the released ones of that architecture.
        freeze: what stays as it is.
        epochs: how often every training example is seen.
        rate: the peak learning rate.
        batch_size: examples a step, over all devices.
        seed: of everything random.
        workdir: the run's folder or address, `runs/MODEL` by default.
        listeners: hear of steps, evaluations and the end.

    Raises:
        JtlError: as `train` does.
    """
    phase = PhaseOptions(
        freeze=freeze if isinstance(freeze, str) else tuple(freeze),
        epochs=epochs,
        schedule=ScheduleOptions(rate=rate),
    )
    named = data if isinstance(data, str) else "arrays"
    config = Config(
        name=model,
        seed=seed,
        model=ModelOptions(name=model, weights=weights or default_weights(model)),
        data=DataOptions(source=named, batch_size=batch_size),
        train=TrainOptions(phases=(phase,)),
    )
    source = None if isinstance(data, str) else _as_source(data)
    return train(config, workdir=workdir, source=source, listeners=listeners)


def default_weights(model: str) -> str:
    """The weights that an architecture is loaded with where none are named.

    Raises:
        ConfigError: there is no such architecture.
    """
    from jtl.weights.catalogue import find_architectures

    return find_architectures(model)[0].weights[0].name


def _as_source(data: tuple[np.ndarray, np.ndarray] | Source) -> Source:
    return from_arrays(data[0], data[1]) if isinstance(data, tuple) else data


def _loop(
    setup: Setup,
    checkpoints: Store,
    evaluator: Evaluator,
    listeners: Sequence[Listener],
    stop: Stop,
) -> Loop:
    config, train = setup.config, setup.config.train
    return Loop(
        phases=setup.phases,
        order=setup.examples.order(config),
        feed=make_cached_feed(setup, evaluator, listeners),
        place=setup.place,
        checkpoints=checkpoints,
        monitor=train.monitor,
        early_stopping=train.early_stopping,
        listeners=listeners,
        evaluate_every=train.evaluate_every,
        log_every=train.log_every,
        max_skipped=train.max_skipped,
        ema=train.ema_decay is not None,
        loss_scale=config.model.precision == "float16",
        stop=stop,
        save_every=train.checkpoint.every,
        on_failure=train.checkpoint.on_failure,
    )


def _summary(
    setup: Setup, progress: Progress, best: Conclusion, final: Conclusion
) -> dict[str, Any]:
    splits = {name: own for name, own in setup.examples.splits.items() if len(own)}

    def record(conclusion: Conclusion, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "metrics": conclusion.metrics(),
            "intervals": conclusion.intervals(),
            "calibration": conclusion.calibration(),
        }

    order = setup.examples.order(setup.config)
    last = record(final, progress.step)
    return {
        "name": setup.config.name,
        "steps": progress.step,
        "epochs": order.epoch(progress.step),
        "seconds": progress.seconds,
        "examples": {name: len(own) for name, own in splits.items()},
        "monitor": setup.config.train.monitor,
        "best": last if best is final else record(best, progress.best_step or 0),
        "final": last,
    }


def _data_record(setup: Setup, outcome: Outcome) -> dict[str, Any]:
    names = setup.examples.unreadable.names
    return {
        "fingerprint": setup.examples.source.fingerprint,
        "waited": outcome.waited,
        "unreadable": {"count": len(names), "examples": names[:_NAMED]},
    }
