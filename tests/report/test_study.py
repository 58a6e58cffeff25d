"""The page of a search: every part of it, from a study with trials of every status."""

import re

import numpy as np
import pytest

from jtl.experiment.options import Config
from jtl.report.study import write_study_page
from jtl.study.search.importance import importances
from jtl.study.search.plan import Plan
from jtl.study.search.random import draw
from jtl.study.search.result import HeldOut, Result
from jtl.study.search.space import Choice, Integer, LogUniform, Space, Uniform
from jtl.study.search.trial import Trial
from jtl.study.spread import Spread

SPACE = Space(
    parameters={
        "model.head": Choice(kind="choice", options=("init", "<b>$match")),
        "train.phases.0.schedule.rate": LogUniform(kind="log_uniform", low=1e-4, high=1e-1),
        "train.phases.0.epochs": Integer(kind="integer", low=1, high=5),
        "model.dropout_rate": Uniform(
            kind="uniform", low=0, high=0.5, when={"model.head": ("init",)}
        ),
    }
)


def trial(number):
    point = draw(SPACE, 0, number)
    value = 0.5 - 0.1 * abs(np.log10(point["train.phases.0.schedule.rate"]) + 2)
    return Trial(
        number=number,
        assignments=point,
        status="complete",
        value=float(value),
        interval=(value - 0.1, value + 0.1),
    )


def result(folder, count):
    trials = [trial(number) for number in range(count)]
    ends = ("failed", "diverged", "out of memory", "pruned", "running")
    trials += [
        Trial(number=count + place, assignments=draw(SPACE, 1, place), status=own, reason="said")
        for place, own in enumerate(ends)
    ]
    plan = Plan(config=Config(name="<i>own"), space=SPACE, method="random")
    winner = plan.objective.best(trials)[0]
    defaults = Trial(number=-1, assignments={}, status="complete", value=0.31)
    judged = HeldOut(value=0.42, interval=(0.4, 0.44), metrics={"accuracy": 0.42})
    return Result(
        plan=plan,
        folder=folder,
        trials=tuple(trials),
        defaults=defaults,
        winner=winner,
        config=plan.config,
        held_out=judged,
        defaults_held_out=judged,
        nested=Spread(mean=0.41, std=0.1, low=0.3, high=0.5),
    )


@pytest.mark.parametrize("count", [1, 20])
def test_a_page_shows_the_whole_study_and_nothing_of_it_as_markup(count, tmp_path):
    write_study_page(result(tmp_path, count))
    page = (tmp_path / "report.html").read_text()
    for said in (
        "0.4200",
        "0.4000\u00a0to\u00a00.4400",
        "0.3100",
        "such searches, nested",
        "out of memory",
    ):
        assert said in page
    assert "<b>" not in page
    assert "<i>own" not in page
    assert not re.search(r'(?:src|href)="http', page)
    drawn = {path.stem for path in (tmp_path / "plots").glob("*.png")}
    assert drawn == {"history", "parallel", "slices", *(["importance"] if count > 8 else [])}
    assert page.count("<svg ") == len(drawn)


def test_the_parameter_that_makes_the_difference_has_the_largest_share():
    found = importances(SPACE, [trial(number) for number in range(60)])
    assert next(iter(found)) == "train.phases.0.schedule.rate"
    assert found["train.phases.0.schedule.rate"] > 0.9
    assert sum(found.values()) == pytest.approx(1)


def test_of_few_trials_nothing_is_said():
    assert importances(SPACE, [trial(number) for number in range(7)]) == {}
