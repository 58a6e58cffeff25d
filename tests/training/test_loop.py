"""The loop: what it tells, what it keeps as the best, when it stops, and exact resume."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from jtl.errors import ConfigError, DivergedError, JtlError
from jtl.training.checkpoint import Checkpoints
from jtl.training.events import Began, Evaluated, Stepped
from jtl.tree import differences
from tests.training.runs import (
    BATCH,
    PHASES,
    VARIABLES,
    InterruptionError,
    interrupt_at,
    phase,
    read,
    run_loop,
    scripted,
)

# Ten examples in batches of four: whole epochs end in steps 3, 5, 8 and 10.
EVALUATIONS = [3, 5, 8, 10]


def told(events, kind):
    """Events without what the clock says."""
    timeless = {"images_per_second", "seconds_left"}
    return [
        {name: value for name, value in dataclasses.asdict(event).items() if name not in timeless}
        for event in events
        if isinstance(event, kind)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run, and what it told."""
    events = []
    state, progress = run_loop(tmp_path_factory.mktemp("whole"), listeners=[events.append])
    return state, progress, events


def test_every_step_and_epoch_is_told(whole):
    _, _, events = whole
    assert events[0] == Began(step=0, steps=10)
    steps = told(events, Stepped)
    assert [event["step"] for event in steps] == list(range(1, 11))
    assert [event["phase"] for event in steps] == [0] * 5 + [1] * 5
    assert [event["epoch"] for event in steps] == [step * BATCH / 10 for step in range(1, 11)]
    evaluations = told(events, Evaluated)
    assert [event["step"] for event in evaluations] == EVALUATIONS
    assert {event["split"] for event in evaluations} == {"val"}


def test_steps_tell_their_loss_and_rate(whole):
    for event in told(whole[2], Stepped):
        own = PHASES[event["phase"]]
        expected = own.rate(event["step"] - 1)
        assert event["metrics"]["rate"] == pytest.approx(float(expected))
        assert np.isfinite(event["metrics"]["loss"])
        assert event["metrics"]["skipped"] == 0


def test_step_counts_batches_over_all_phases(whole):
    state, progress, _ = whole
    assert state.step == progress.step == 10
    assert progress.phase == 1


def test_frozen_parameters_move_in_the_phase_that_trains_them(tmp_path):
    state, _ = run_loop(tmp_path, phases=PHASES[:1])
    changed = {line.split(":")[0] for line in differences(VARIABLES, state.variables)}
    assert changed == {"params/head/kernel", "batch_stats/hidden/mean"}


def test_records_come_as_often_as_asked_for_and_at_each_evaluation(tmp_path):
    events = []
    run_loop(tmp_path, listeners=[events.append], log_every=4)
    assert [event["step"] for event in told(events, Stepped)] == [3, 4, 5, 8, 10]


def test_evaluations_come_as_often_as_asked_for_and_at_the_end_of_a_phase(tmp_path):
    events = []
    run_loop(tmp_path, listeners=[events.append], evaluate_every=3.0)
    assert [event["step"] for event in told(events, Evaluated)] == [5, 8, 10]


@pytest.mark.parametrize(
    ("kind", "step"), [(Stepped, 2), *((Evaluated, step) for step in EVALUATIONS), (Stepped, 10)]
)
def test_an_interrupted_run_goes_on_with_the_same_bits(whole, tmp_path, kind, step):
    first, second = [], []
    with pytest.raises(InterruptionError):
        run_loop(tmp_path, listeners=[first.append, interrupt_at(step, kind)])
    state, progress = run_loop(tmp_path, listeners=[second.append])
    expected, ended, events = whole
    assert not differences(expected, state)
    assert dataclasses.replace(progress, seconds=ended.seconds) == ended
    start = second[0].step
    assert start == max([0, *(own for own in EVALUATIONS if own < step)])
    for sort in (Stepped, Evaluated):
        kept = [event for event in told(first, sort) if event["step"] <= start]
        assert kept + told(second, sort) == told(events, sort)


def test_a_run_interrupted_again_and_again_ends_the_same(whole, tmp_path):
    for step in (3, 4, 5, 6, 8, 9, 10):
        with pytest.raises(InterruptionError):
            run_loop(tmp_path, listeners=[interrupt_at(step, Stepped)])
    state, _ = run_loop(tmp_path)
    assert not differences(whole[0], state)


def test_a_finished_run_takes_no_further_step(whole, tmp_path):
    run_loop(tmp_path)
    events = []
    state, progress = run_loop(tmp_path, listeners=[events.append])
    assert events == [Began(step=10, steps=10)]
    assert not differences(whole[0], state)
    assert progress.step == 10


def test_seconds_add_up_over_starts(tmp_path):
    with pytest.raises(InterruptionError):
        run_loop(tmp_path, listeners=[interrupt_at(8, Evaluated)])
    with Checkpoints(tmp_path) as checkpoints:
        before = checkpoints.progress().seconds
    _, progress = run_loop(tmp_path)
    assert progress.seconds > before > 0


NAN = float("nan")


@pytest.mark.parametrize(
    ("monitor", "values", "best"),
    [
        ("accuracy", (0.5, 0.7, 0.6, 0.7), 5),
        ("accuracy", (0.5, NAN, 0.6, NAN), 8),
        ("accuracy", (NAN, 0.1, NAN, NAN), 5),
        ("ece", (0.5, 0.7, 0.1, 0.2), 8),
        ("ece", (NAN, 0.7, NAN, 0.8), 5),
    ],
)
def test_the_best_is_kept_and_what_is_no_number_is_never_it(tmp_path, monitor, values, best):
    events = []
    validate = scripted(values, monitor)
    _, progress = run_loop(tmp_path, monitor=monitor, validate=validate, listeners=[events.append])
    assert progress.best_step == best
    assert progress.best_value == values[EVALUATIONS.index(best)]
    marked = [event["step"] for event in told(events, Evaluated) if event["best"]]
    assert marked[-1] == best
    with Checkpoints(tmp_path) as checkpoints:
        for step in (best, 10):
            checkpoints.variables(step, VARIABLES)


def test_metrics_that_are_never_numbers_choose_nothing(tmp_path):
    _, progress = run_loop(tmp_path, validate=scripted(itertools.repeat(NAN)))
    assert progress.best_step is None


def test_without_a_monitor_the_last_is_taken(tmp_path):
    events = []
    _, progress = run_loop(
        tmp_path,
        monitor=None,
        validate=scripted((0.9, 0.1, 0.1, 0.1)),
        listeners=[events.append],
    )
    assert progress.best_step == 10
    assert len(told(events, Evaluated)) == 4


def test_without_validation_the_last_is_taken_and_nothing_evaluated(tmp_path):
    events = []
    _, progress = run_loop(tmp_path, validate=None, listeners=[events.append])
    assert progress.best_step == 10
    assert told(events, Evaluated) == []


def test_a_monitor_that_is_never_reported_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.monitor='top1' .* choose one of accuracy, loss"):
        run_loop(tmp_path, monitor="top1")


def test_a_run_that_only_skips_is_stopped_and_keeps_its_best_state(tmp_path):
    wild = (phase(0, 5, "stem"), phase(5, 100, "none", rate=float("inf")))
    with pytest.raises(ConfigError, match=r"lower train\.phases\[1\]\.schedule\.rate") as caught:
        run_loop(tmp_path, phases=wild, log_every=7)
    # The first of these still had a loss; every later one is skipped.
    assert "10 steps in a row, the last is step 16" in str(caught.value)
    with Checkpoints(tmp_path) as checkpoints:
        kept = checkpoints.variables(checkpoints.progress().best_step, VARIABLES)
    assert np.isfinite(kept["params"]["head"]["kernel"]).all()


def test_a_step_that_moves_what_is_frozen_fails_the_run(tmp_path):
    own = phase(0, 5, "stem", option=0)

    class Leaky:
        donated = ()

        def __call__(self, state, batch):
            state, metrics = own.step(state, batch)
            stem = jax.tree.map(lambda leaf: leaf + 1e-7, state.params["stem"])
            return dataclasses.replace(state, params={**state.params, "stem": stem}), metrics

        def modes(self, labels):
            return own.step.modes(labels)

    leaky = dataclasses.replace(own, step=Leaky())
    with pytest.raises(JtlError, match="frozen leaves changed in the phase that ends at step 5"):
        run_loop(tmp_path, phases=(leaky,))


def test_skips_in_a_row_are_counted_over_phases_and_restarts(tmp_path):
    wild = (phase(0, 2, "stem", rate=float("inf"), option=0), phase(2, 9, "none"))

    def read_spoiled(start, stop):
        for batch in read(start, stop):
            yield {**batch, "image": np.full((4, 2, 2, 3), np.nan, np.float32)} if start else batch

    with pytest.raises(DivergedError, match="4 steps in a row, the last is step 5"):
        run_loop(tmp_path, phases=wild, max_skipped=4, batches=read_spoiled)
