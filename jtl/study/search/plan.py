"""What a study is to do, checked before anything is trained."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jtl.config import to_dict
from jtl.engine.metrics import METRICS, SEVERAL_METRICS
from jtl.errors import ConfigError
from jtl.experiment.options import Config
from jtl.study.search.grid import Grid
from jtl.study.search.hyperopt import Hyperopt
from jtl.study.search.local import Local
from jtl.study.search.optuna import PRUNERS, Optuna
from jtl.study.search.random import Random
from jtl.study.search.space import Space, check_space
from jtl.study.search.trial import Method, Objective
from jtl.training.measure.ranking import RANKINGS
from jtl.tree import nearest

Named = Literal["grid", "random", "optuna", "hyperopt"]
_TRIALS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study is to do.

    Attributes:
        config: the defaults, whose data and splits all trials share.
        space: which options vary, and how.
        method: that proposes trials.
        metric: of the validation split, such as `val/accuracy`.
        trials: in all; None is 20, and all of a grid.
        minutes: after which this process begins no trial; None for as long as it takes.
        folds: parts of the training and validation examples that validate in turn; None keeps
            the validation split.
        nested: outer folds, in each of which the whole search is done again; None does none.
        sampler: of Optuna or Hyperopt.
        pruner: what ends trials early.
        storage: of Optuna.
        name: of Optuna's study in the storage.
        seed: of the method.
        together: whether trials train in one program where that is possible.
    """

    config: Config
    space: Space
    method: Named
    metric: str = "val/accuracy"
    trials: int | None = None
    minutes: float | None = None
    folds: int | None = None
    nested: int | None = None
    sampler: str | None = None
    pruner: str = "none"
    storage: str | None = None
    name: str | None = None
    seed: int = 0
    together: bool = True

    @property
    def objective(self) -> Objective:
        """The metric without its split."""
        return Objective(metric=self.metric.removeprefix("val/"))

    @property
    def base(self) -> dict[str, Any]:
        """The defaults as plain values."""
        return to_dict(self.config)

    @property
    def identity(self) -> dict[str, Any]:
        """What a study is of; how long it goes on does not belong to it."""
        own = {
            "config": self.base,
            "space": self.space.to_dict(),
            "method": self.method,
            "metric": self.metric,
            "folds": self.folds,
            "nested": self.nested,
            "seed": self.seed,
        }
        return json.loads(json.dumps(own))


def check_plan(plan: Plan) -> None:
    """Whether a study can be begun; looks at no data.

    Raises:
        ConfigError: the metric, the space, the folds, the pruner or another word does not fit.
    """
    split, slash, metric = plan.metric.rpartition("/")
    known = list(dict.fromkeys([*METRICS, *SEVERAL_METRICS, *RANKINGS]))
    if slash and split != "val":
        raise ConfigError(
            f"--metric {plan.metric}: a search looks at the validation split alone; write "
            f"val/{metric}."
        )
    if metric not in known:
        near = nearest(metric, known)
        hint = f" Did you mean val/{near[0]}?" if near else ""
        raise ConfigError(
            f"--metric {plan.metric}: it is never reported; those that are: {', '.join(known)}."
            f"{hint}"
        )
    for word, count in (("--folds", plan.folds), ("--nested", plan.nested)):
        if count is not None and count < 2:
            raise ConfigError(f"{word} {count}: take at least 2 folds.")
    for word, limit in (("--trials", plan.trials), ("--minutes", plan.minutes)):
        if limit is not None and limit <= 0:
            raise ConfigError(f"{word} {limit:g}: must be more than 0.")
    if plan.folds is None and plan.config.data.split.val == 0:
        raise ConfigError(
            f"--metric {plan.metric}: it is never reported, as the validation split is empty; set "
            "data.split.val above 0, or give --folds."
        )
    _check_words(plan)
    check_space(plan.space, plan.base)


def _check_words(plan: Plan) -> None:
    optuna = plan.method == "optuna"
    if plan.pruner not in PRUNERS:
        raise ConfigError(f"--pruner {plan.pruner}: there are {', '.join(PRUNERS)}.")
    if plan.pruner in ("hyperband", "halving") and not optuna:
        raise ConfigError(
            f"--pruner {plan.pruner} is Optuna's; give --method optuna, or --pruner median."
        )
    words = {"--storage": plan.storage, "--study": plan.name}
    for word, given in words.items():
        if given is not None and not optuna:
            raise ConfigError(f"{word} is Optuna's; give --method optuna, or leave it out.")
    if plan.sampler is not None and plan.method in ("grid", "random"):
        raise ConfigError(
            f"--sampler is for --method optuna and hyperopt; --method {plan.method} has none."
        )


def make_method(plan: Plan, folder: Path) -> tuple[Method, int]:
    """The method of a study, and how many trials it is to have.

    Args:
        plan: of the study.
        folder: of the study, absolute.

    Raises:
        ConfigError: the method is not installed, or cannot be carried out so.
    """
    space, objective, median = plan.space, plan.objective, plan.pruner == "median"
    count = plan.trials or _TRIALS
    local: Local
    if plan.method == "grid":
        local = Grid(space, objective, median=median)
        assert local.size is not None
        count = min(plan.trials or local.size, local.size)
    elif plan.method == "random":
        local = Random(space, objective, seed=plan.seed, median=median)
    elif plan.method == "hyperopt":
        sampler = plan.sampler or "tpe"
        local = Hyperopt(space, objective, seed=plan.seed, algorithm=sampler, median=median)
    else:
        optuna = Optuna(
            space,
            objective,
            folder=folder,
            name=plan.name or plan.config.name,
            storage=plan.storage,
            identity=_shared(plan.identity),
            limit=count,
            seed=plan.seed,
            sampler=plan.sampler or "tpe",
            pruner=plan.pruner,
        )
        return optuna, count
    return local, count


def _shared(identity: Mapping[str, Any]) -> dict[str, Any]:
    # What must be the same for all that share a storage; each draws by a seed of its own.
    return {key: own for key, own in identity.items() if key != "seed"}
