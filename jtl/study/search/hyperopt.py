"""Hyperopt as a method: its own algorithms, fed from records in JSON, without any pickle."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jtl.errors import ConfigError
from jtl.study.search.local import Local
from jtl.study.search.space import Choice, Integer, LogUniform, Space
from jtl.study.search.trial import Objective, Trial
from jtl.tree import nearest

ALGORITHMS = ("tpe", "random", "anneal")


class Hyperopt(Local):
    """Hyperopt's tree of Parzen estimators, random search or annealing.

    What Hyperopt must know of a trial, the draws by parameter, stands in the trial's record; its
    documents are made from these each time it is asked.

    Args:
        space: to search.
        objective: of the search.
        seed: of the draws.
        algorithm: one of `ALGORITHMS`.
        median: whether trials are pruned by the median, which Hyperopt itself does not.

    Raises:
        ConfigError: Hyperopt is not installed, or knows no such algorithm.
    """

    learns = True

    def __init__(
        self,
        space: Space,
        objective: Objective,
        *,
        seed: int,
        algorithm: str = "tpe",
        median: bool = False,
    ) -> None:
        super().__init__(objective, median=median)
        self._space, self._seed = space, seed
        self._suggest = _algorithm(algorithm)
        self._learns_from_failures = algorithm.lower() == "tpe"
        self._domain = _make_domain(space)

    def ask(self, known: Sequence[Trial], count: int) -> list[Trial]:
        """The next suggestions."""
        from hyperopt import Trials

        past = Trials()
        past.insert_trial_docs([self._document(own) for own in known if self._counts(own)])
        past.refresh()
        found = []
        for number in range(len(known), len(known) + count):
            # The generator's state is a function of the trial, so that a study goes on as it was.
            seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
            (document,) = self._suggest([number], self._domain, past, seed)
            values = document["misc"]["vals"]
            draws = {name: float(own[0]) for name, own in values.items() if len(own)}
            assignments = {name: self._value(name, draw) for name, draw in draws.items()}
            ordered = {name: assignments[name] for name in self._space.parameters if name in draws}
            found.append(Trial(number=number, assignments=ordered, method={"draws": draws}))
        return found

    def _value(self, name: str, draw: float) -> Any:
        parameter = self._space.parameters[name]
        if isinstance(parameter, Choice):
            return parameter.options[int(draw)]
        if isinstance(parameter, Integer):
            place = min(max(round(draw), 0), parameter.count - 1)
            return parameter.low + parameter.step * place
        return min(max(draw, float(parameter.low)), float(parameter.high))

    def _counts(self, trial: Trial) -> bool:
        measured = trial.status == "complete" or (trial.status == "pruned" and trial.reports)
        # To the estimators, what failed is worse than all that has a value.
        failed = self._learns_from_failures and trial.status not in ("running", "complete")
        return bool(measured or failed) and "draws" in trial.method

    def _document(self, trial: Trial) -> dict[str, Any]:
        draws: Mapping[str, float] = trial.method["draws"]
        value = trial.value
        if value is None and trial.status == "pruned" and trial.reports:
            value = trial.reports[-1][1]
        result = {"status": "ok", "loss": None if value is None else self._objective.loss(value)}
        names = list(self._space.parameters)
        return {
            "tid": trial.number,
            "spec": None,
            "result": result if value is not None else {"status": "fail"},
            "misc": {
                "tid": trial.number,
                "cmd": self._domain.cmd,
                "workdir": None,
                "idxs": {name: [trial.number] if name in draws else [] for name in names},
                "vals": {name: [self._drawn(name, draws)] if name in draws else []
                         for name in names},
            },
            "state": 2,  # done
            "owner": None,
            "book_time": None,
            "refresh_time": None,
            "exp_key": None,
            "version": 0,
        }  # fmt: skip

    def _drawn(self, name: str, draws: Mapping[str, float]) -> float | int:
        whole = isinstance(self._space.parameters[name], Choice)
        return int(draws[name]) if whole else draws[name]


def _algorithm(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from hyperopt import anneal, rand, tpe
    except ImportError as error:
        raise ConfigError(
            "--method hyperopt needs Hyperopt, which is not installed; pip install 'jtl[hyperopt]'"
        ) from error
    known = {"tpe": tpe.suggest, "random": rand.suggest, "anneal": anneal.suggest}
    if name.lower() not in known:
        near = nearest(name, known)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"--sampler {name}: Hyperopt has {', '.join(ALGORITHMS)} here; take one of them.{hint}"
        )
    return known[name.lower()]


def _make_domain(space: Space) -> Any:
    from hyperopt import hp
    from hyperopt.base import Domain
    from hyperopt.pyll import scope

    nodes: dict[str, Any] = {}
    for name, parameter in space.parameters.items():
        if isinstance(parameter, Choice):
            nodes[name] = scope.hyperopt_param(name, scope.randint(len(parameter.options)))
        elif isinstance(parameter, Integer):
            # Rounded, each end gets as much of the interval as every number between.
            nodes[name] = hp.quniform(name, -0.5, parameter.count - 0.5, 1)
        elif isinstance(parameter, LogUniform):
            nodes[name] = hp.loguniform(name, np.log(parameter.low), np.log(parameter.high))
        else:
            nodes[name] = hp.uniform(name, parameter.low, parameter.high)
    conditional = {}
    for name in space.parameters:
        node = nodes[name]
        for parent, places in space.conditions(name).items():
            choice = space.parameters[parent]
            assert isinstance(choice, Choice)
            branches = [node if i in places else None for i in range(len(choice.options))]
            node = scope.switch(nodes[parent], *branches)
        conditional[name] = node
    return Domain(lambda _: 0.0, conditional)
