"""Which step is best, and when a run stops early."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jtl.errors import ConfigError
from jtl.training.saved_steps import Progress
from jtl.training.selection import EarlyStoppingOptions, choose_best, count_patience, improves
from tests.training.runs import run_loop, scripted

VALUES = st.lists(st.floats(allow_infinity=False, width=32), min_size=1, max_size=12)


@given(VALUES, st.sampled_from(["accuracy", "loss", "ece"]))
def test_the_best_is_the_first_of_the_extreme_values_and_never_a_nan(values, metric):
    progress = Progress()
    for step, value in enumerate(values, 1):
        progress = Progress(step=step, best_step=progress.best_step, best_value=progress.best_value)
        progress, _ = choose_best(progress, {metric: value}, metric)
    numbers = [value for value in values if not math.isnan(value)]
    if not numbers:
        assert progress.best_step is None
        return
    extreme = max(numbers) if metric == "accuracy" else min(numbers)
    assert progress.best_value == extreme
    assert progress.best_step == values.index(extreme) + 1


@pytest.mark.parametrize(
    ("value", "before", "metric", "by", "better"),
    [
        (0.5, None, "accuracy", 0.1, True),
        (0.55, 0.5, "accuracy", 0.1, False),
        (0.65, 0.5, "accuracy", 0.1, True),
        (0.45, 0.5, "loss", 0.1, False),
        (0.35, 0.5, "loss", 0.1, True),
        (math.nan, None, "loss", 0.0, False),
        (math.nan, 0.5, "loss", 0.0, False),
    ],
)
def test_an_improvement_is_larger_than_what_is_asked_for(value, before, metric, by, better):
    assert improves(value, before, metric, by) is better


def test_a_run_stops_when_its_patience_is_at_an_end(tmp_path):
    values = (0.5, 0.6, 0.6, 0.55, 0.9)
    options = EarlyStoppingOptions(patience=2)
    # Evaluations are at steps 3, 5, 8 and 10, of which the first two are in the first phase.
    _, progress = run_loop(tmp_path, validate=scripted(values), early_stopping=options)
    assert (progress.step, progress.stale, progress.stopped) == (10, 1, False)


def test_a_run_that_stopped_early_stays_stopped_when_resumed(tmp_path):
    options = EarlyStoppingOptions(patience=1, monitor="loss")
    state, progress = run_loop(tmp_path, validate=scripted((1, 2, 3), "loss"),
                               early_stopping=options, monitor="loss")  # fmt: skip
    assert (progress.step, progress.stopped, progress.best_step) == (5, True, 3)
    again, same = run_loop(tmp_path, validate=None, early_stopping=options)
    assert same == progress
    assert int(again.step) == int(state.step) == 5


def test_patience_is_counted_on_from_a_checkpoint():
    options = EarlyStoppingOptions(patience=3)
    progress = Progress(patience_value=0.5, stale=1)
    progress = count_patience(progress, {"accuracy": 0.5}, options, "accuracy")
    assert (progress.stale, progress.stopped) == (2, False)
    progress = count_patience(progress, {"accuracy": math.nan}, options, "accuracy")
    assert (progress.stale, progress.stopped) == (3, True)


def test_metrics_that_cannot_be_watched_are_named():
    options = EarlyStoppingOptions()
    with pytest.raises(ConfigError, match=r"no metric to watch, as train\.monitor is null"):
        count_patience(Progress(), {"loss": 1.0}, options, None)
    asked = EarlyStoppingOptions(monitor="los")
    with pytest.raises(ConfigError, match=r"early_stopping\.monitor='los' is never reported"):
        count_patience(Progress(), {"loss": 1.0}, asked, None)
