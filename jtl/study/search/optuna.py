"""Optuna as a method: its samplers, pruners and storage, which several workers may share."""

import datetime
import inspect
import json
import re
import socket
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtl.errors import ConfigError
from jtl.study.search.space import Choice, Integer, LogUniform, Parameter, Space
from jtl.study.search.trial import Objective, Trial
from jtl.tree import nearest

PRUNERS = ("none", "median", "hyperband", "halving")
_IDENTITY, _HOME, _LEFT_OVER = "jtl", "home", "left over"
_RACED = ("unique constraint", "already exists", "duplicate")
_ATTEMPTS, _PAUSE = 10, 0.3  # seconds between two attempts to open a storage
_ORPHANED = 60.0  # seconds after which nobody is still about to say whose a trial is


class Optuna:
    """A study of Optuna's.

    Args:
        space: to search.
        objective: of the search.
        folder: of this worker's study, absolute.
        name: of the study in the storage.
        storage: a database's URL, the path of a journal file (`journal:PATH`), or None for a
            SQLite file in the folder.
        identity: what the study is of; a study of another one is refused.
        limit: trials in all.
        seed: of the sampler.
        sampler: any of Optuna's by its name.
        pruner: one of `PRUNERS`.

    Raises:
        ConfigError: Optuna or a driver is not installed, there is no such sampler, the storage
            cannot be reached, or the study is of something else.
    """

    size: int | None = None
    learns = True

    def __init__(
        self,
        space: Space,
        objective: Objective,
        *,
        folder: Path,
        name: str,
        storage: str | None,
        identity: Mapping[str, Any],
        limit: int,
        seed: int,
        sampler: str = "tpe",
        pruner: str = "none",
    ) -> None:
        self._space, self._objective, self._seed, self._limit = space, objective, seed, limit
        self._optuna = _import()
        self._make_sampler = _sampler(self._optuna, sampler)
        self._sampler = sampler
        self._try()
        self._home = f"{socket.gethostname()}:{folder}"
        self._folder = folder
        own_pruner = _pruner(self._optuna, pruner)
        self._study = _persistently(
            lambda: self._optuna.create_study(
                storage=_open(self._optuna, storage, folder),
                pruner=own_pruner,
                study_name=name,
                direction="maximize" if objective.maximize else "minimize",
                load_if_exists=True,
            ),
            storage,
        )
        self._check(name, identity)

    def known(self, own: Sequence[Trial]) -> list[Trial]:
        """The trials of the storage, with what the folder knows of them."""
        here = {trial.number: trial for trial in own}
        return [here.get(each.number) or _trial(each) for each in self._stored()]

    def ask(self, known: Sequence[Trial], count: int) -> list[Trial]:  # noqa: ARG002
        """The sampler's next; beside them, trials of this folder that were never begun."""
        found = [self._drawn(own) for own in self._orphans()]
        count += len(found)
        while len(found) < count:
            number = len(self._study.get_trials(deepcopy=False))
            words = [self._seed, number, *self._home.encode()]
            self._study.sampler = self._make_sampler(
                int(np.random.SeedSequence(words).generate_state(1)[0])
            )
            trial = self._proposed(self._study)
            if sum(own.number < trial.number for own in self._stored()) >= self._limit:
                # Another worker took the last one between our looking and our asking.
                trial.set_user_attr(_LEFT_OVER, True)
                self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
                break
            trial.set_user_attr(_HOME, self._home)
            found.append(self._drawn(trial))
        return found

    def _try(self) -> None:
        """Has the sampler draw from the space, so that what it lacks is said at the start."""
        study = self._optuna.create_study(sampler=self._make_sampler(0))
        for _ in range(2):
            trial = self._proposed(study)
            self._drawn(trial)
            study.tell(trial, 0.0)

    def _proposed(self, study: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what a sampler cannot do as one would like
                return study.ask()
        except (ImportError, ValueError) as error:
            raise self._unfit(error) from error

    def _unfit(self, error: Exception) -> ConfigError:
        lacks = "it needs a package more" if isinstance(error, ImportError) else "does not fit"
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return ConfigError(f"--sampler {self._sampler}: {lacks}: {first}; take another, as tpe.")

    def report(self, trial: Trial, known: Sequence[Trial]) -> bool:  # noqa: ARG002
        """Tells the storage; whether the pruner ends the trial."""
        stored = self._trial(trial.number)
        # Counted in validations: steps are longer or shorter by the size of batches.
        step = len(trial.reports)
        if step not in self._frozen(trial.number).intermediate_values:
            stored.report(trial.reports[-1][1], step)
        return bool(stored.should_prune())

    def tell(self, trial: Trial) -> None:
        """Tells the storage, unless it knows."""
        states = self._optuna.trial.TrialState
        if self._frozen(trial.number).state.is_finished():
            return
        stored = self._trial(trial.number)
        stored.set_user_attr("status", trial.status)
        stored.set_user_attr("metrics", dict(trial.metrics))
        stored.set_user_attr("seconds", trial.seconds)
        if trial.interval is not None:
            stored.set_user_attr("interval", list(trial.interval))
        if trial.reason is not None:
            stored.set_user_attr("reason", trial.reason)
        if trial.status == "complete":
            self._study.tell(trial.number, trial.value, skip_if_finished=True)
        else:
            # Samplers learn from what was pruned, and pass over what failed.
            bad = trial.status in ("pruned", "diverged")
            state = states.PRUNED if bad else states.FAIL
            self._study.tell(trial.number, state=state, skip_if_finished=True)

    def _check(self, name: str, identity: Mapping[str, Any]) -> None:
        known = self._study.user_attrs.get(_IDENTITY)
        if known is None:
            if self._stored():
                raise ConfigError(
                    f"the storage holds a study {name!r} that jtl did not make; choose another "
                    "name with --study."
                )
            self._study.set_user_attr(_IDENTITY, dict(identity))
            return
        changed = [
            key for key in identity if known.get(key) != json.loads(json.dumps(identity[key]))
        ]
        if changed:
            raise ConfigError(
                f"the storage holds a study {name!r} with another {' and '.join(changed)}; give "
                "the same one, or choose another name with --study."
            )

    def _stored(self) -> list[Any]:
        every = self._study.get_trials(deepcopy=False)
        return [own for own in every if not own.user_attrs.get(_LEFT_OVER)]

    def _orphans(self) -> list[Any]:
        """Trials that were asked for and whose worker was killed before it wrote them down."""
        now = datetime.datetime.now()
        found = []
        for own in self._stored():
            if own.state.is_finished() or self._is_here(own.number):
                continue
            home = own.user_attrs.get(_HOME)
            age = (now - own.datetime_start).total_seconds() if own.datetime_start else 0.0
            if home == self._home or (home is None and age > _ORPHANED):
                trial = self._trial(own.number)
                trial.set_user_attr(_HOME, self._home)
                found.append(trial)
        return found

    def _is_here(self, number: int) -> bool:
        return (self._folder / "trials" / f"{number:04d}" / "trial.json").exists()

    def _frozen(self, number: int) -> Any:
        return self._study.get_trials(deepcopy=False)[number]

    def _trial(self, number: int) -> Any:
        return self._optuna.trial.Trial(self._study, self._frozen(number)._trial_id)

    def _drawn(self, trial: Any) -> Trial:
        values: dict[str, Any] = {}
        try:
            for name, parameter in self._space.parameters.items():
                if self._space.in_use(name, values):
                    values[name] = _suggest(trial, name, parameter)
        except (ImportError, ValueError) as error:
            raise self._unfit(error) from error
        return Trial(number=trial.number, assignments=values)


def _suggest(trial: Any, name: str, parameter: Parameter) -> Any:
    if isinstance(parameter, Choice):
        # The storage takes plain values alone; lists and mappings stand there as their JSON.
        named = {_plain(option): option for option in parameter.options}
        return named[trial.suggest_categorical(name, list(named))]
    if isinstance(parameter, Integer):
        last = parameter.low + parameter.step * (parameter.count - 1)
        return trial.suggest_int(name, parameter.low, last, step=parameter.step)
    log = isinstance(parameter, LogUniform)
    return trial.suggest_float(name, parameter.low, parameter.high, log=log)


def _plain(option: Any) -> Any:
    return json.dumps(option) if isinstance(option, list | tuple | dict) else option


def _trial(stored: Any) -> Trial:
    """What a storage knows of another machine's trial."""
    attributes, name = stored.user_attrs, stored.state.name.lower()
    status = {"complete": "complete", "pruned": "pruned", "fail": "failed"}.get(name, "running")
    interval = attributes.get("interval")
    return Trial(
        number=stored.number,
        assignments=stored.params,
        status=attributes.get("status", status),
        value=stored.value if status == "complete" else None,
        interval=None if interval is None else tuple(interval),
        metrics=attributes.get("metrics", {}),
        reports=tuple(stored.intermediate_values.items()),
        seconds=attributes.get("seconds", 0.0),
        reason=attributes.get("reason"),
        method={"home": attributes.get(_HOME)},
    )


def _import() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "--method optuna needs Optuna, which is not installed; pip install 'jtl[optuna]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _sampler(optuna: Any, name: str) -> Callable[[int], Any]:
    """What makes the sampler of this name, from a seed."""
    known = {
        each.removesuffix("Sampler").lower(): getattr(optuna.samplers, each)
        for each in optuna.samplers.__all__
        if each.endswith("Sampler") and not each.startswith("Base")
    }
    kind = known.get(name.lower().removesuffix("sampler"))
    if kind is None:
        near = nearest(name.lower(), known)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"--sampler {name}: Optuna has {', '.join(known)}.{hint}")
    options = inspect.signature(kind).parameters

    def make(seed: int) -> Any:
        wanted = {"seed": seed, "constant_liar": True}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what Optuna calls experimental
                return kind(**{key: own for key, own in wanted.items() if key in options})
        except TypeError as error:
            raise ConfigError(
                f"--sampler {name}: it needs arguments that a name cannot give ({error}); take "
                "another, such as tpe."
            ) from error
        except ImportError as error:
            raise ConfigError(
                f"--sampler {name}: it needs a package more: {str(error).splitlines()[0]}"
            ) from error

    return make


def _pruner(optuna: Any, name: str) -> Any:
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner()
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner()
    return optuna.pruners.MedianPruner() if name == "median" else optuna.pruners.NopPruner()


def _open(optuna: Any, storage: str | None, folder: Path) -> Any:
    if storage is not None and "://" not in storage:
        backend = optuna.storages.journal.JournalFileBackend(storage.removeprefix("journal:"))
        return optuna.storages.JournalStorage(backend)
    url = storage or f"sqlite:///{folder / 'optuna.db'}"
    # SQLAlchemy's own choice of a driver changed between its versions.
    url = re.sub(r"^postgres(ql)?://", "postgresql+psycopg2://", url)
    # SQLite makes other workers wait while one writes.
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    return optuna.storages.RDBStorage(url, engine_kwargs=options)


def _persistently(make: Callable[[], Any], storage: str | None) -> Any:
    """Opens a storage, once more where another machine made its tables at the same moment."""
    for left in reversed(range(_ATTEMPTS)):
        try:
            return make()
        except Exception as error:
            raced = any(word in str(error).lower() for word in _RACED)
            if not raced or not left:
                raise _unreachable(error, storage) from error
            time.sleep(_PAUSE)
    raise AssertionError


def _unreachable(error: Exception, storage: str | None) -> ConfigError:
    where = "the study's folder" if storage is None else f"--storage {_without_password(storage)}"
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, ImportError):
        return ConfigError(
            f"{where}: its driver is not installed ({first}); pip install psycopg2-binary for "
            "PostgreSQL, PyMySQL for MySQL (mysql+pymysql://…)."
        )
    return ConfigError(f"{where} cannot be used: {first}")


def _without_password(url: str) -> str:
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, _, user = head.partition("://")
    return f"{scheme}://{user.split(':')[0]}@{tail}"
