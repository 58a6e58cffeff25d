"""The rate finder: what it suggests, and that it leaves no trace."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jtl.errors import ConfigError
from jtl.experiment.find_rate import search_rate
from jtl.training.rate_finder import find_rate, suggest
from jtl.tree import differences
from tests.experiment.runs import config, run, source

ONE = {"train__phases": [{"freeze": "backbone", "epochs": 1}]}


def test_a_search_leaves_no_trace_in_the_run_that_follows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = run(tmp_path / "before", config(**ONE))
    search = search_rate(config(**ONE), steps=40, source=source())
    assert [path.name for path in tmp_path.iterdir()] == ["before"]
    assert search.rates[0] == pytest.approx(1e-6)
    assert search.suggestion is not None
    assert 1e-5 < search.suggestion < 1
    assert min(search.losses) < search.losses[0]
    after = run(tmp_path / "after", config(**ONE))
    assert not differences(before.variables, after.variables)


@given(st.integers(12, 200), st.floats(0.2, 0.8))
def test_the_suggestion_lies_on_the_way_down(count, place):
    rates = np.logspace(-6, 0, count)
    x = np.linspace(0, 1, count)
    losses = 3 - 2 / (1 + np.exp(-20 * (x - place))) + np.where(x > 0.95, 50 * (x - 0.95), 0)
    rate = suggest(rates, losses)
    lowest = rates[np.argmin(losses)]
    assert rate is not None
    assert rates[0] < rate <= lowest / 3 * (1 + 1e-9)


def test_no_rate_is_suggested_where_none_lowers_the_loss():
    rates = np.logspace(-6, 0, 20)
    assert suggest(rates, np.linspace(1, 2, 20)) is None
    assert suggest(rates, np.ones(20)) is None
    assert suggest(rates[:2], np.array([2.0, 1.0])) is None


@pytest.mark.parametrize("wrong", [{"steps": 5}, {"lowest": 0.0}, {"lowest": 2.0}])
def test_a_range_that_cannot_be_searched_is_refused(wrong):
    with pytest.raises(ConfigError, match="give a rising range above 0 and at least 10 steps"):
        find_rate(None, None, None, iter(()), {}, 0, **wrong)
