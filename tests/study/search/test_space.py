"""The search space: what it says, how its mistakes are told, and what each method makes of it."""

import itertools
import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from jtl.config import to_dict
from jtl.errors import ConfigError
from jtl.experiment.options import Config, read_config
from jtl.study.search.grid import Grid, grid_values
from jtl.study.search.hyperopt import Hyperopt
from jtl.study.search.optuna import Optuna
from jtl.study.search.random import Random, draw
from jtl.study.search.space import Choice, Integer, Space, check_space, configure, read_space
from jtl.study.search.trial import Objective, Trial

ACCURACY = Objective(metric="accuracy")
NESTED = """
model.name: {kind: choice, options: [resnet_mini, resnet18]}
train.phases.0.freeze: {kind: choice, options: [none, backbone, [stem..layer2]]}
train.phases[0].layer_decay:
  kind: uniform
  low: 0.5
  high: 1
  steps: 3
  when: {"train.phases[0].freeze": [none, [stem..layer2]]}
train.phases.0.schedule.rate: {kind: log_uniform, low: 1e-4, high: 1e-1, steps: 4}
train.phases.0.epochs: {kind: integer, low: 2, high: 9, step: 3}
train.loss.label_smoothing: {kind: choice, options: [0.0, 0.1], when: {model.name: [resnet18]}}
"""


@pytest.fixture
def space(tmp_path):
    return read(tmp_path, NESTED)


def read(folder, text):
    (folder / "space.yaml").write_text(text)
    return read_space(folder / "space.yaml")


def wrong(folder, text):
    with pytest.raises(ConfigError) as caught:
        check_space(read(folder, text), to_dict(read_config("digits_fewshot")))
    return str(caught.value)


MISTAKES = {
    "unknown key": (
        "train.phases.0.schedule.rat: {kind: uniform, low: 0, high: 1}",
        "train.phases[0].schedule.rat: there is no such option; did you mean "
        "train.phases[0].schedule.rate? (",
    ),
    "empty range": ("model.dropout_rate: {kind: uniform, low: 0.5, high: 0.5}", "is empty"),
    "empty integers": ("train.phases.0.epochs: {kind: integer, low: 5, high: 2}", "is empty"),
    "no options": ("model.name: {kind: choice, options: []}", "at least 1"),
    "unknown kind": ("model.name: {kind: choise, options: [a]}", "'choise' is not allowed"),
    "out of range": (
        "model.dropout_rate: {kind: uniform, low: 0, high: 1.5}",
        "model.dropout_rate: 1.5 is not allowed; give a number of at least 0 and less than 1 (",
    ),
    "wrong option": ("data.batch_size: {kind: choice, options: [8, many]}", "'many' is not"),
    "no such phase": (
        "train.phases.7.epochs: {kind: integer, low: 1, high: 2}",
        "train.phases is a list with entries 0 to 1 (",
    ),
    "log of nothing": ("seed: {kind: log_uniform, low: 0, high: 1}", "greater than 0"),
    "twice": ("model.name: {kind: choice, options: [a, a]}", "stands twice"),
    "other examples": ("data.split.seed: {kind: integer, low: 0, high: 3}", "split alike"),
    "other shots": ("seed: {kind: integer, low: 0, high: 3}", "draws other examples"),
    "no parent": (
        "model.name: {kind: choice, options: [a], when: {model.head: [init]}}",
        "'model.head' is no choice of this space",
    ),
    "no such value": (
        "model.head: {kind: choice, options: [init, keep]}\n"
        "seed: {kind: integer, low: 0, high: 1, when: {model.head: [match]}}",
        '"match" is no option of model.head; there are "init", "keep"',
    ),
    "circle": (
        "model.head: {kind: choice, options: [init], when: {model.name: [a]}}\n"
        "model.name: {kind: choice, options: [a], when: {model.head: [init]}}",
        "depend on each other",
    ),
    "nothing": ("", "names no option"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line(mistake, tmp_path):
    text, said = MISTAKES[mistake]
    found = wrong(tmp_path, text)
    assert said in found
    assert len(found.splitlines()) == 1
    assert "space.yaml" in found


def test_all_mistakes_are_told_at_once(tmp_path):
    text = "train.rate: {kind: uniform, low: 0, high: 1}\nmodel.nam: {kind: choice, options: [a]}"
    assert len(wrong(tmp_path, text).splitlines()) == 2


def test_a_space_without_mistakes_passes(tmp_path):
    check_space(read(tmp_path, NESTED), to_dict(Config()))


def test_assignments_become_options(space):
    values = {"train.phases.0.freeze": ["stem..layer2"], "train.phases.0.schedule.rate": 1e-5}
    config = configure(to_dict(Config()), values)
    assert config.train.phases[0].freeze == ("stem..layer2",)
    assert config.train.phases[0].schedule.rate == 1e-5


def is_point_of(space, point):
    """Whether a point has a value of every parameter that is in use, and of no other."""
    used = {name for name in space.parameters if space.in_use(name, point)}
    if used != set(point):
        return False
    for name, value in point.items():
        parameter = space.parameters[name]
        if isinstance(parameter, Choice):
            if json.dumps(value) not in map(json.dumps, parameter.options):
                return False
        elif isinstance(parameter, Integer):
            if value not in grid_values(parameter):
                return False
        elif not parameter.low <= value <= parameter.high:
            return False
    return True


def test_a_grid_has_every_point_once(space):
    points = [own.assignments for own in Grid(space, ACCURACY).ask([], 1000)]
    # Of a model the second has two smoothings more, of a freeze two of three have a decay.
    assert len(points) == (1 + 2) * (3 + 1 + 3) * 4 * 3
    assert len({json.dumps(point) for point in points}) == len(points)
    assert all(is_point_of(space, point) for point in points)


def test_a_grid_goes_on_where_it_was(space):
    grid = Grid(space, ACCURACY)
    whole = grid.ask([], 1000)
    parts = []
    while found := grid.ask(parts, 5):
        parts += found
    assert parts == whole


def test_a_grid_over_a_range_without_steps_is_refused(tmp_path):
    text = "model.dropout_rate: {kind: uniform, low: 0, high: 0.5}\ntrain.phases.0.schedule.rate: "
    space = read(tmp_path, text + "{kind: log_uniform, low: 1e-3, high: 1}")
    with pytest.raises(ConfigError, match=r"dropout_rate: a grid needs steps.*\n.*rate: a grid"):
        Grid(space, ACCURACY)


def test_random_trials_depend_on_seed_and_number_alone(space):
    method = Random(space, ACCURACY, seed=3)
    whole = method.ask([], 20)
    assert method.ask(whole[:7], 13) == whole[7:]
    assert all(is_point_of(space, own.assignments) for own in whole)
    assert Random(space, ACCURACY, seed=4).ask([], 20) != whole
    fewer = Space(parameters=dict(itertools.islice(space.parameters.items(), 2)))
    assert draw(fewer, 3, 0).items() <= whole[0].assignments.items()


@given(st.integers(0, 2**32), st.integers(0, 10_000))
def test_draws_are_points(seed, number):
    parameters = {
        "a": Choice(kind="choice", options=(1, None, ("x",))),
        "b": Integer(kind="integer", low=-3, high=4, step=2),
    }
    own = Space(parameters=parameters)
    assert is_point_of(own, draw(own, seed, number))


def ended(trials, value_of):
    """The trials as if they had been trained."""
    import dataclasses

    return [
        dataclasses.replace(own, status="complete", value=value_of(own.assignments))
        for own in trials
    ]


def target(point):
    """Best at rate 1e-2 with the whole network trained and little decay."""
    import math

    loss = abs(math.log10(point["train.phases.0.schedule.rate"]) + 2)
    loss += 0.0 if point["train.phases.0.freeze"] == "none" else 1.0
    return 1 - loss - abs(point.get("train.phases.0.layer_decay", 0.5) - 0.6)


def methods(space, folder):
    yield "random", lambda: Random(space, ACCURACY, seed=0)
    for algorithm in ("tpe", "random", "anneal"):
        yield algorithm, lambda own=algorithm: Hyperopt(space, ACCURACY, seed=0, algorithm=own)
    identity = {"space": space.to_dict()}
    yield (
        "optuna",
        lambda: Optuna(
            space,
            ACCURACY,
            folder=folder,
            name="own",
            storage=None,
            identity=identity,
            limit=60,
            seed=0,
        ),
    )


def carry_on(make, count, batch):
    """A study of this method whose process ends after every batch."""
    known = []
    while len(known) < count:
        method = make()
        found = ended(method.ask(known, min(batch, count - len(known))), target)
        for trial in found:
            method.tell(trial)
        known += found
    return known


@pytest.mark.parametrize("name", ["random", "tpe", "anneal", "optuna"])
def test_a_method_proposes_points_and_learns(name, space, tmp_path):
    make = dict(methods(space, tmp_path))[name]
    known = carry_on(make, 60, 5)
    assert [own.number for own in known] == list(range(60))
    assert all(is_point_of(space, own.assignments) for own in known)
    if name != "random":
        # Hyperopt's estimators begin with twenty draws at random.
        first, last = ([own.value for own in part] for part in (known[:20], known[20:]))
        assert sum(last) / 40 > sum(first) / 20 + 0.2


@pytest.mark.parametrize("name", ["random", "tpe", "anneal"])
def test_a_method_goes_on_from_records_alone(name, space, tmp_path):
    make = dict(methods(space, tmp_path))[name]
    known = carry_on(make, 30, 5)
    from_json = [Trial.from_dict(json.loads(json.dumps(own.to_dict()))) for own in known]
    assert make().ask(from_json, 3) == make().ask(known, 3)


def test_what_failed_stops_no_method(space, tmp_path):
    import dataclasses

    for name, make in methods(space, tmp_path):
        method, known = make(), []
        for place in range(30):
            (trial,) = method.ask(known, 1)
            status = ("failed", "diverged", "out of memory", "pruned", "complete")[place % 5]
            value = 0.5 if status == "complete" else None
            trial = dataclasses.replace(trial, status=status, value=value, reason="said")
            method.tell(trial)
            method.tell(trial)  # as after a crash between the record and the storage
            known.append(trial)
        assert len(method.known(known)) == 30, name
