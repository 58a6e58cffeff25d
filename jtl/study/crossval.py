"""Cross-validation: the same training on every fold, and what it says of examples left out."""

import csv
import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl.data.folds import FoldOptions
from jtl.data.options import load_source
from jtl.data.sources.protocol import Source
from jtl.errors import CheckpointError, ConfigError, DivergedError
from jtl.experiment import train
from jtl.experiment.options import Config
from jtl.experiment.workdir import check_workdir, make_workdir
from jtl.study.spread import Spread, spread_of
from jtl.study.vectorised import Outcome, Trials
from jtl.training.files import read_json, write_json, write_text
from jtl.training.measure.predictions import Predictions
from jtl.training.measure.tally import Tally


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """What became of one fold.

    Attributes:
        repeat: which deal of the examples it belongs to, from 0.
        fold: which of that deal's folds it is, from 0.
        best_step: the step whose parameters are judged.
        metrics: of the examples that were left out.
        examples: int `[examples]`, those.
        probabilities: float `[examples, classes]`.
    """

    repeat: int
    fold: int
    best_step: int
    metrics: Mapping[str, float]
    examples: np.ndarray
    probabilities: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CrossValidation:
    """A finished cross-validation.

    Attributes:
        workdir: its folder.
        config: what every fold was trained by.
        folds: all of them, repeat by repeat.
        metrics: the spread of each metric over the folds.
        separately: why folds were trained one by one; None where all were trained at once.
    """

    workdir: Path
    config: Config
    folds: tuple[Fold, ...]
    metrics: Mapping[str, Spread]
    separately: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Announcement:
    """What is about to be trained: how many folds, of which many are done, and how."""

    total: int
    done: int
    separately: str | None


Tell = Callable[[Announcement | Fold], None]


def crossval(
    config: Config,
    *,
    folds: int = 5,
    repeats: int = 1,
    workdir: str | Path | None = None,
    resume: bool = False,
    together: bool = True,
    source: Source | None = None,
    tell: Tell = lambda _: None,
) -> CrossValidation:
    """Trains on all folds but one, for each of them, and judges by the one that was left out.

    Folds part what a run of this config would train and validate on, class by class, and whole
    groups where the source has groups; the test split stays out of it. Every fold begins with
    the same parameters. A further repeat deals the examples anew, and has a seed of its own.

    Args:
        config: of the training.
        folds: how many there are.
        repeats: how often the examples are dealt out.
        workdir: the folder, `runs/NAME-crossval` by default.
        resume: whether to go on where that folder's folds ended.
        together: whether folds train at once where that is possible: what is frozen is computed
            once, and one program trains behind it.
        source: the examples, in place of those that the config names.
        tell: hears what is to be done, and then of each fold.

    Raises:
        ConfigError: the config cannot be carried out here.
        DataError: the examples cannot be parted so.
        DivergedError: a fold's loss was not finite for too long.
        CheckpointError: the folder holds something else, or cannot be written.
    """
    if folds < 2 or repeats < 1:
        raise ConfigError(f"folds={folds} and repeats={repeats}; take at least 2 folds, 1 repeat.")
    folder = Path(workdir) if workdir is not None else Path("runs") / f"{config.name}-crossval"
    check_workdir(folder, config, resume=resume)
    _check_plan(folder, folds, repeats)
    source = load_source(config.data) if source is None else source
    configs = {
        (repeat, fold): _config_of(config, repeat, fold, folds)
        for repeat in range(repeats)
        for fold in range(folds)
    }
    trials = Trials(source=source, folder=folder)
    why = trials.refusal(configs[0, 0]) if together else "as asked"
    make_workdir(folder, config)
    write_json(folder / "plan.json", {"folds": folds, "repeats": repeats})
    done = {place: own for place in configs if (own := _read(folder, *place)) is not None}
    tell(Announcement(total=len(configs), done=len(done), separately=why))
    left = {place: own for place, own in configs.items() if place not in done}
    if why is None:
        found = _train_together(trials, left, source)
    else:
        found = _train_apart(folder, left, source)
    for fold in found:
        _write(folder, fold)
        done[fold.repeat, fold.fold] = fold
        tell(fold)
    every = tuple(done[place] for place in configs)
    share = 1 / (folds - 1)
    metrics = {
        name: spread_of([own.metrics[name] for own in every], share) for name in every[0].metrics
    }
    result = CrossValidation(
        workdir=folder, config=config, folds=every, metrics=metrics, separately=why
    )
    write_text(folder / "predictions.csv", _predictions(result, source))
    write_json(folder / "crossval.json", _record(result, folds, repeats, source))
    return result


def _config_of(config: Config, repeat: int, fold: int, folds: int) -> Config:
    part = FoldOptions(count=folds, index=fold, seed=config.data.split.seed + repeat)
    split = dataclasses.replace(config.data.split, fold=part)
    data = dataclasses.replace(config.data, split=split)
    return dataclasses.replace(config, seed=config.seed + repeat, data=data)


def _check_plan(folder: Path, folds: int, repeats: int) -> None:
    path = folder / "plan.json"
    if not path.exists():
        if (folder / "config.yaml").exists():
            raise CheckpointError(
                f"{folder} holds a run and no cross-validation; choose another folder with "
                "--workdir."
            )
        return
    # More repeats only go on where the others ended.
    known = read_json(path)["folds"]
    if known != folds:
        raise CheckpointError(
            f"{folder} was begun with {known} folds, not {folds}; give --folds {known}, or choose "
            "another folder with --workdir."
        )
    del repeats


def _train_together(
    trials: Trials, configs: Mapping[tuple[int, int], Config], source: Source
) -> Iterator[Fold]:
    # Repeat by repeat, which is how far a start that is interrupted has come.
    for repeat in sorted({repeat for repeat, _ in configs}):
        own = {place: config for place, config in configs.items() if place[0] == repeat}
        for place, outcome in zip(own, trials.run(list(own.values()))):
            yield _fold_of(place, outcome, source)


def _fold_of(place: tuple[int, int], outcome: Outcome, source: Source) -> Fold:
    if outcome.failure is not None:
        raise DivergedError(
            f"fold {place[1]} of repeat {place[0]} {outcome.failure}; lower the rate, or set "
            "train.phases.0.optimizer.clip_norm."
        )
    said = Predictions(
        logits=np.asarray(outcome.logits),
        label=source.labels[outcome.examples],
        example=outcome.examples,
        name=np.array([source.name(int(index)) for index in outcome.examples], np.str_),
        classes=source.classes,
    )
    return Fold(
        repeat=place[0],
        fold=place[1],
        best_step=outcome.best_step,
        metrics=Tally(said).metrics(),
        examples=outcome.examples,
        probabilities=np.asarray(jax.nn.softmax(outcome.logits, axis=-1)),
    )


def _train_apart(
    folder: Path, configs: Mapping[tuple[int, int], Config], source: Source
) -> Iterator[Fold]:
    for (repeat, fold), config in configs.items():
        own = folder / "folds" / f"{repeat}-{fold}"
        run = train(config, workdir=own, resume=True, source=source, splits=("val",))
        best, said = run.summary["best"], run.predictions("val")
        yield Fold(
            repeat=repeat,
            fold=fold,
            best_step=best["step"],
            metrics=best["metrics"]["val"],
            examples=said.example,
            probabilities=said.probabilities().astype(np.float32),
        )


def _path(folder: Path, repeat: int, fold: int) -> Path:
    return folder / "folds" / f"{repeat}-{fold}.json"


def _write(folder: Path, fold: Fold) -> None:
    path = _path(folder, fold.repeat, fold.fold)
    path.parent.mkdir(exist_ok=True)
    record = {
        "best_step": fold.best_step,
        "metrics": dict(fold.metrics),
        "examples": fold.examples.tolist(),
        "probabilities": [[float(f"{p:.7g}") for p in row] for row in fold.probabilities],
    }
    write_json(path, record)


def _read(folder: Path, repeat: int, fold: int) -> Fold | None:
    path = _path(folder, repeat, fold)
    if not path.exists():
        return None
    known = read_json(path)
    return Fold(
        repeat=repeat,
        fold=fold,
        best_step=known["best_step"],
        metrics=known["metrics"],
        examples=np.array(known["examples"]),
        probabilities=np.array(known["probabilities"], np.float32),
    )


def _predictions(result: CrossValidation, source: Source) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = source.classes
    head = ["repeat", "fold", "example", "name", "label", "predicted"]
    writer.writerow([*head, *(f"p({name})" for name in names)])
    for fold in result.folds:
        for index, row in zip(fold.examples, fold.probabilities):
            label = _label(source.labels[index], names)
            said = [fold.repeat, fold.fold, index, source.name(int(index)), label]
            writer.writerow([*said, names[int(row.argmax())], *(f"{p:.6g}" for p in row)])
    return text.getvalue()


def _label(label: Any, names: Sequence[str]) -> str:
    if np.ndim(label):
        return "|".join(name for name, own in zip(names, label) if own)
    return names[int(label)]


def _record(result: CrossValidation, folds: int, repeats: int, source: Source) -> dict[str, Any]:
    return {
        "name": result.config.name,
        "folds": folds,
        "repeats": repeats,
        "together": result.separately is None,
        "separately": result.separately,
        "grouped": source.groups is not None,
        "metrics": {name: own.to_dict() for name, own in result.metrics.items()},
        "interval": "95 %, Student's t with the variance corrected for shared training examples "
        "(Nadeau and Bengio 2003)",
        "by_fold": [
            {
                "repeat": own.repeat,
                "fold": own.fold,
                "examples": len(own.examples),
                "best_step": own.best_step,
                "metrics": dict(own.metrics),
            }
            for own in result.folds
        ],
    }
