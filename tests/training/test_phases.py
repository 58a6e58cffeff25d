"""Phases: where each begins and ends, what it trains, and when it is evaluated."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jtl.config import Document, build
from jtl.data.pipeline import TrainOrder
from jtl.engine.optim import OptimizerOptions
from jtl.engine.schedules import ScheduleOptions
from jtl.engine.state import TrainState
from jtl.errors import ConfigError
from jtl.training.options import PhaseOptions, TrainOptions
from jtl.training.phases import evaluation_steps, make_phases
from jtl.training.unfreezing import UnfreezeOptions
from jtl.tree import flatten
from tests.engine.nets import mini, variables_of
from tests.training.runs import PHASES

NET = mini()
PARAMS = variables_of(NET)["params"]


def order_of(examples=10, batch_size=4):
    return TrainOrder(indices=np.arange(examples), batch_size=batch_size, seed=0)


def phases_of(*options, order=None, **train):
    whole = TrainOptions(phases=options, **train)
    return make_phases(whole, NET, PARAMS, order or order_of(), None)


def test_phases_follow_each_other_without_a_gap():
    made = phases_of(*(PhaseOptions(epochs=epochs) for epochs in (2, 0.5, 3.3)))
    assert [(own.start, own.stop) for own in made] == [(0, 5), (5, 7), (7, 15)]


def test_every_phase_has_a_step_however_short_it_is():
    made = phases_of(*(PhaseOptions(epochs=0.01) for _ in range(3)))
    assert [(own.start, own.stop) for own in made] == [(0, 1), (1, 2), (2, 3)]


def test_each_phase_has_its_own_freeze_spec_rate_and_optimizer():
    made = phases_of(
        PhaseOptions(freeze="backbone", schedule=ScheduleOptions(rate=0.5, kind="constant")),
        PhaseOptions(freeze=("stem..layer2",), optimizer=OptimizerOptions(name="sgd")),
    )
    trained = [
        {path.split("/")[0] for path, label in flatten(own.labels).items() if label == "trainable"}
        for own in made
    ]
    assert trained == [{"head"}, {"layer3", "head"}]
    assert float(made[0].rate(made[0].stop)) == 0.5
    assert made[1].tx.labels == made[1].labels


def test_a_rate_belongs_to_its_phase_alone():
    schedule = ScheduleOptions(rate=0.5, warmup=0.0, final=0.1)
    for own in phases_of(*(PhaseOptions(epochs=2, schedule=schedule) for _ in range(2))):
        assert float(own.rate(own.start)) == pytest.approx(0.5)
        assert float(own.rate(own.stop)) == pytest.approx(0.05)


def test_dropout_of_a_phase_replaces_the_models():
    kept, replaced = phases_of(PhaseOptions(), PhaseOptions(dropout_rate=0.4))
    assert kept.step.forward.model.dropout_rate == NET.dropout_rate == 0
    assert replaced.step.forward.model.dropout_rate == 0.4


def test_lengths_are_epochs_steps_or_percent_of_the_run():
    made = phases_of(
        PhaseOptions(steps=3), PhaseOptions(percent=50), PhaseOptions(epochs=2), epochs=4
    )
    assert [(own.start, own.stop) for own in made] == [(0, 3), (3, 8), (8, 13)]
    with pytest.raises(ConfigError, match=r"phases\[0\]: percent=50 is of train\.epochs"):
        phases_of(PhaseOptions(percent=50))
    with pytest.raises(ConfigError, match="one length, but epochs and steps are set"):
        PhaseOptions(epochs=1, steps=2)


def test_steps_are_as_many_as_asked_for_wherever_they_begin():
    short = [PhaseOptions(epochs=0.01)] * 3
    made = phases_of(*short, PhaseOptions(steps=10), PhaseOptions(epochs=1))
    assert [(own.start, own.stop) for own in made[3:]] == [(3, 13), (13, 16)]


def trained(own):
    """The stages that a phase trains in whole."""
    labels = flatten(own.labels)
    stages = dict.fromkeys(path.split("/")[0] for path in labels)
    return [
        stage
        for stage in stages
        if {label for path, label in labels.items() if path.startswith(f"{stage}/")}
        == {"trainable"}
    ]


def test_unfreezing_thaws_a_stage_an_epoch_under_one_schedule():
    schedule = ScheduleOptions(rate=0.5, warmup=0.0, kind="linear", final=0.0)
    made = phases_of(
        PhaseOptions(epochs=1),
        PhaseOptions(freeze="backbone", unfreeze=UnfreezeOptions(), epochs=6, schedule=schedule),
        order=order_of(12, 4),
    )
    assert [(own.option, own.start, own.stop) for own in made] == [
        *((0, 0, 3), (1, 3, 6), (1, 6, 9), (1, 9, 12), (1, 12, 15), (1, 15, 21)),
    ]
    backbone = ["layer3", "layer2", "layer1", "stem"]
    for thawed, own in enumerate(made[1:]):
        assert set(trained(own)) == {"head", *backbone[:thawed]}
        assert own.continues
        for step in (own.start, own.stop):
            assert float(own.rate(step)) == pytest.approx(0.5 * (21 - step) / 18)


def test_unfreezing_ends_with_its_phase_and_takes_blocks_several_at_a_time():
    made = phases_of(
        PhaseOptions(freeze="backbone", unfreeze=UnfreezeOptions(per_epoch="2 blocks"), epochs=2),
        order=order_of(12, 4),
    )
    assert [(own.start, own.stop) for own in made] == [(0, 3), (3, 6)]
    assert set(trained(made[1])) == {"head", "layer2", "layer3"}
    with pytest.raises(ConfigError, match=r"phases\[0\]: unfreeze: freeze='none' freezes nothing"):
        phases_of(PhaseOptions(unfreeze=UnfreezeOptions()))
    with pytest.raises(ConfigError, match="per_epoch='a stage' is no pace"):
        UnfreezeOptions(per_epoch="a stage")


def stepped(phases, state, number):
    """The state after one update with gradients of 1, as the phase's optimizer makes it."""
    own = phases[number]
    ones = jax.tree.map(np.ones_like, PARAMS)
    _, opt_state = own.tx.update(ones, state.opt_state, state.params, step=state.step)
    return dataclasses.replace(state, opt_state=opt_state)


def counts(state):
    """Adam's counts of steps by group, and the paths of first moments that are not zero."""
    leaves = flatten(state.opt_state)
    groups = {p.split("/")[-3]: int(v) for p, v in leaves.items() if p.endswith("/count")}
    moments = {p.partition("/mu/")[2] for p, v in leaves.items() if "/mu/" in p and v.any()}
    return groups, {path.split("/")[0] for path in moments}


def test_state_of_parts_that_stay_trainable_goes_on_and_new_parts_begin_afresh():
    phases = phases_of(
        PhaseOptions(freeze="backbone"),
        PhaseOptions(freeze="stem..layer2"),
        PhaseOptions(freeze=("layer3",)),
        PhaseOptions(optimizer=OptimizerOptions(name="lion")),
    )
    state = stepped(phases, TrainState.create({"params": PARAMS}, phases[0].tx, rng=0), 0)
    assert counts(state) == ({"phase0": 1}, {"head"})
    state = state.succeeded_by(phases[1].tx, keep_optimizer=phases[1].continues)
    assert counts(state) == ({"phase0": 1, "phase1": 0}, {"head"})
    state = stepped(phases, state, 1)
    assert counts(state) == ({"phase0": 2, "phase1": 1}, {"head", "layer3"})
    state = state.succeeded_by(phases[2].tx, keep_optimizer=phases[2].continues)
    assert counts(state) == ({"phase0": 2, "phase2": 0}, {"head"})
    assert not phases[3].continues
    state = state.succeeded_by(phases[3].tx, keep_optimizer=phases[3].continues)
    assert counts(state)[1] == set()


def test_rates_of_layers_are_those_of_their_depth_and_globs():
    (own,) = phases_of(PhaseOptions(layer_decay=0.5, rates={"**/bias": 2.0, "head": 3.0}))
    found = flatten(own.multipliers)
    assert found["head/kernel"] == found["head/bias"] == 3
    assert found["layer3/block0/conv1/kernel"] == 0.5
    assert found["layer3/block0/bn1/bias"] == 1
    assert found["stem/conv/kernel"] == 0.5**4
    with pytest.raises(ConfigError, match=r"phases\[0\]: rates: 'haed' matches no parameter"):
        phases_of(PhaseOptions(rates={"haed": 1.0}))


def test_mistakes_of_all_phases_are_named_with_their_place():
    with pytest.raises(ConfigError) as caught:
        phases_of(PhaseOptions(freeze="bakbone"), PhaseOptions(), PhaseOptions(freeze="all"))
    first, second = str(caught.value).splitlines()
    assert first.startswith("train.phases[0]: freeze: 'bakbone' matches no parameter")
    assert "Did you mean" in first or "The stages are" in first
    assert second.startswith("train.phases[2]: freeze='all' leaves nothing to train")


@given(
    st.integers(1, 60),
    st.integers(1, 30),
    st.lists(st.sampled_from([0.01, 0.4, 1, 2.5, 3]), min_size=1, max_size=3),
    st.sampled_from([0.3, 1.0, 2.0, 50.0]),
)
def test_evaluations_are_at_every_multiple_and_at_the_end_of_each_phase(
    examples, batch_size, lengths, every
):
    order = order_of(examples, batch_size)
    borders, total = [0], 0.0
    for length in lengths:
        total += length
        borders.append(max(order.steps(total), borders[-1] + 1))
    found = []
    for start, stop in itertools.pairwise(borders):
        own = dataclasses.replace(PHASES[0], start=start, stop=stop)
        steps = list(evaluation_steps(own, order, every))
        assert steps == sorted(set(steps))
        assert start < steps[0]
        assert steps[-1] == stop
        found += steps
    multiples = {order.steps(every * n) for n in range(1, int(total / every) + 2)}
    due = {step for step in multiples if step <= borders[-1]}
    assert set(found) >= due
    assert set(found) <= due | set(borders)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"schedule": {"rate": -1e-3}}, "greater than 0"),
        ({"epochs": 0}, "greater than 0"),
        ({"optimizer": {"name": "adam"}}, "'sgd', 'adamw'"),
        ({"dropout_rate": 1.0}, "less than 1"),
        ({"schedule": {"kind": "cosin"}}, "'cosine'"),
    ],
)
def test_options_out_of_range_are_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        build(TrainOptions, Document(values={"phases": [values]}))


def test_training_has_at_least_one_phase():
    with pytest.raises(ConfigError, match="at least 1 entries"):
        build(TrainOptions, Document(values={"phases": []}))
