"""The search: takes trials one by one or in batches, until there are enough; then the winner."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from jtl.errors import ConfigError
from jtl.study.search.carry import Carrier
from jtl.study.search.folder import StudyFolder
from jtl.study.search.nested import outer_config
from jtl.study.search.plan import Plan, check_plan, make_method
from jtl.study.search.process import Process
from jtl.study.search.result import HeldOut, Result, write_result
from jtl.study.search.trial import Method, Trial
from jtl.study.spread import Spread, spread_of
from jtl.training.storage import refuse_address

# Trials that are proposed at once where they train together. A method that learns is asked for a
# fifth of them all, so that it has something to learn from.
_MOST, _MOST_LEARNING, _FEWEST_LEARNING, _ROUNDS = 64, 16, 4, 5
_LOOK = 1.0  # seconds between two looks at trials that other workers have


@dataclasses.dataclass(frozen=True, kw_only=True)
class Began:
    """A search, or its continuation, is about to begin.

    Attributes:
        folder: of the study.
        trials: in all.
        done: that have ended before.
        separately: why trials train one by one; None where many train in one program.
        unpruned: whether a pruner was asked for that has nothing to do, as trials end together.
        outer: the outer fold, from 0, of a nested cross-validation.
    """

    folder: Path
    trials: int
    done: int
    separately: str | None
    unpruned: bool
    outer: int | None


Tell = Callable[[Began | Trial], None]


def search(
    plan: Plan,
    workdir: str | Path | None = None,
    *,
    resume: bool = False,
    tell: Tell = lambda _: None,
) -> Result:
    """Searches a space, and judges the winner by the test split, at which no trial looks.

    Several processes that are given the same plan and folder share one study. What one of them
    was at when it was killed, the next to come takes up.

    Args:
        plan: what to search, how and for how long.
        workdir: the study's folder, `runs/NAME-METHOD` by default.
        resume: whether a study that is there already may go on.
        tell: hears of the beginning, and of each trial that ends.

    Raises:
        ConfigError: the plan cannot be carried out, or no trial came to an end.
        CheckpointError: the folder holds something else.
        JtlError: as the defaults would raise it if they were trained.
    """
    check_plan(plan)
    default = Path("runs") / f"{plan.config.name}-{plan.method}"
    refuse_address(workdir)
    folder = StudyFolder(path=Path(workdir or default).absolute())
    method = _begun(plan, folder, resume=resume)
    with Process(folder.path / "log.txt") as process:
        nested = None if plan.nested is None else _nested(plan, folder, process, tell)
        carrier = Carrier(plan=plan, folder=folder, process=process)
        return _Search(carrier, *method, tell).run(nested)


def _begun(plan: Plan, folder: StudyFolder, *, resume: bool) -> tuple[Method, int]:
    """The method and how many trials it is to have; a study that cannot be leaves no folder."""
    with folder.lock():  # nor may two processes make one storage at a time
        new = not folder.exists
        folder.begin(plan.identity, resume=resume)
        try:
            return make_method(plan, folder.path)
        except ConfigError:
            if new:
                folder.forget()
            raise


def _nested(plan: Plan, folder: StudyFolder, process: Process, tell: Tell) -> Spread:
    """The spread over outer folds of what their winners are worth."""
    assert plan.nested is not None
    name = plan.name or plan.config.name
    split = plan.base["data"]["split"]
    values = []
    for index in range(plan.nested):
        own = dataclasses.replace(
            plan, config=outer_config(plan.config), nested=None, name=f"{name}-outer{index}"
        )
        inner = StudyFolder(path=folder.path / "outer" / str(index))
        method = _begun(own, inner, resume=True)
        outer = {"split": split, "count": plan.nested, "index": index}
        carrier = Carrier(plan=own, folder=inner, process=process, outer=outer)
        found = _Search(carrier, *method, tell, outer=index).run(None)
        assert found.held_out is not None
        values.append(found.held_out.value)
    return spread_of(values, 1 / (plan.nested - 1))


class _Search:
    def __init__(
        self,
        carrier: Carrier,
        method: Method,
        count: int,
        tell: Tell,
        outer: int | None = None,
    ) -> None:
        self._carrier, self._plan, self._folder = carrier, carrier.plan, carrier.folder
        self._method, self._count = method, count
        self._tell, self._outer = tell, outer
        self._began = time.monotonic()

    def run(self, nested: Spread | None) -> Result:
        separately = self._carrier.refusal()
        done = [own for own in self._known() if own.status != "running"]
        self._tell(
            Began(
                folder=self._folder.path,
                trials=self._count,
                done=len(done),
                separately=separately,
                unpruned=separately is None and self._plan.pruner != "none",
                outer=self._outer,
            )
        )
        together, first = separately is None, self._defaults()
        if first and not together:
            self._carry_out(first, together)
            first = []
        while True:
            batch, busy = self._take(self._batch if together else 1)
            if first or batch:
                # The defaults are a trial like others, and have the same program.
                self._carry_out(first + batch, together)
                first = []
            elif busy:
                time.sleep(_LOOK)
            else:
                break
        with self._folder.lock():
            return self._conclude(nested)

    @property
    def _batch(self) -> int:
        if not self._method.learns:
            return _MOST
        return max(_FEWEST_LEARNING, min(_MOST_LEARNING, self._count // _ROUNDS))

    def _known(self) -> list[Trial]:
        return self._method.known(self._folder.trials())

    def _take(self, count: int) -> tuple[list[tuple[Trial, TextIO]], bool]:
        """Trials that are now ours, abandoned ones first; and whether other workers have some."""
        found: list[tuple[Trial, TextIO]] = []
        busy = False
        with self._folder.lock():
            own = self._folder.trials()
            for trial in own:
                if trial.status != "running":
                    continue
                held = self._folder.hold(trial)
                if held is None:
                    busy = True
                elif len(found) == count or self._late:
                    held.close()
                else:
                    found.append((trial, held))
            known = self._method.known(own)
            left = 0 if self._late or found else min(self._count - len(known), count)
            # A storage may have trials beside these that were asked for and never written down.
            for trial in [] if self._late else self._method.ask(known, max(left, 0)):
                held = self._folder.hold(trial)
                assert held is not None
                self._folder.write(trial)
                found.append((trial, held))
        return found, busy

    @property
    def _late(self) -> bool:
        minutes = self._plan.minutes
        return minutes is not None and time.monotonic() - self._began >= minutes * 60

    def _carry_out(self, batch: list[tuple[Trial, TextIO]], together: bool) -> None:
        with contextlib.ExitStack() as held:
            for _, file in batch:
                held.enter_context(file)
            trials = [trial for trial, _ in batch]
            for trial in self._carrier.together(trials) if together else trials:
                ended = trial
                if ended.status == "running":
                    ended = self._carrier.alone(trial, self._report)
                if ended.number < 0 and ended.status == "failed":
                    raise ConfigError(f"{ended.reason}")
                self._folder.write(ended)
                if ended.number >= 0:
                    self._method.tell(ended)
                    self._keep_the_best(ended)
                self._tell(ended)

    def _report(self, trial: Trial) -> bool:
        return trial.number >= 0 and self._method.report(trial, self._known())

    def _keep_the_best(self, ended: Trial) -> None:
        """Of all trials only the best one's parameters stay on disk."""
        with self._folder.lock():
            ranked = self._plan.objective.best(self._folder.trials())
            for trial in [ended, *ranked[1:2]]:
                if not ranked or trial.number != ranked[0].number:
                    self._folder.drop_checkpoints(trial)

    def _defaults(self) -> list[tuple[Trial, TextIO]]:
        """The config as it is, measured once, as a trial that a mistake in ends the search."""
        trial = self._folder.read(Trial(number=-1, assignments={}))
        held = self._folder.hold(trial) if trial.status == "running" else None
        # Otherwise it is there already, or another worker is at it.
        return [] if held is None else [(trial, held)]

    def _conclude(self, nested: Spread | None) -> Result:
        trials = self._known()
        defaults = self._folder.read(Trial(number=-1, assignments={}))
        ranked = self._plan.objective.best(trials)
        if not ranked:
            if self._late and not trials:
                raise ConfigError(
                    f"--minutes {self._plan.minutes:g} were over before a trial was begun; give "
                    "more of them, and --resume to go on after the defaults."
                )
            raise ConfigError(_nothing(trials, self._folder.path))
        winner = self._plan.objective.best([defaults, ranked[0]])[0]
        if winner.number < 0 and winner.value == ranked[0].value:
            winner = ranked[0]
        mine = {trial.number for trial in self._folder.trials()}
        result = Result(
            plan=self._plan,
            folder=self._folder.path,
            trials=tuple(trials),
            defaults=defaults,
            winner=winner,
            config=self._carrier.config(winner),
            held_out=self._held_out(winner),
            defaults_held_out=self._held_out(defaults),
            nested=nested,
            elsewhere=tuple(own.number for own in trials if own.number not in mine),
        )
        write_result(result)
        return result

    def _held_out(self, trial: Trial) -> HeldOut | None:
        if trial.status != "complete" or not self._has_test:
            return None
        metric, message = self._plan.objective.metric, self._carrier.held_out(trial)
        if message["kind"] == "ended":
            raise ConfigError(f"the winner could not be judged by the test split: "
                              f"{message['reason']}")  # fmt: skip
        if "test" not in message["metrics"]:
            return None
        found: Mapping[str, Any] = message["intervals"]["test"]
        return HeldOut(
            value=message["metrics"]["test"][metric],
            interval=tuple(found[metric]) if metric in found else None,
            metrics=message["metrics"]["test"],
        )

    @property
    def _has_test(self) -> bool:
        return self._plan.config.data.split.test != 0


def _nothing(trials: list[Trial], folder: Path) -> str:
    counts: dict[str, int] = {}
    for trial in trials:
        counts[trial.status] = counts.get(trial.status, 0) + 1
    told = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none was begun"
    reasons = [own.reason for own in trials if own.reason]
    said = f" The last said: {reasons[-1]}" if reasons else ""
    return f"no trial came to an end with a value ({told}); see {folder / 'trials'}.{said}"
