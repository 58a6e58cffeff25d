"""Cross-validation: folds, repeats, what is left out, and going on after an interruption."""

import dataclasses
import json

import numpy as np
import pytest

from jtl.errors import CheckpointError, ConfigError, DataError
from jtl.study.crossval import Fold, crossval
from jtl.study.spread import spread_of
from tests.experiment.runs import InterruptionError, config, source


def options(**changes):
    phase = {"freeze": "backbone", "epochs": 2, "schedule": {"rate": 0.02}}
    return config(**{"augment": {}, "train__phases": [phase], **changes})


def test_folds_at_once_equal_folds_one_by_one(tmp_path):
    arguments = {"folds": 3, "source": source()}
    once = crossval(options(), workdir=tmp_path / "once", **arguments)
    apart = crossval(options(), workdir=tmp_path / "apart", together=False, **arguments)
    assert (once.separately, apart.separately) == (None, "as asked")
    for own, other in zip(once.folds, apart.folds):
        assert np.array_equal(own.examples, other.examples)
        assert own.best_step == other.best_step
        np.testing.assert_allclose(own.probabilities, other.probabilities, atol=1e-5)
        for name, value in other.metrics.items():
            assert own.metrics[name] == pytest.approx(value, abs=1e-5, nan_ok=True), name


def test_every_example_but_the_tests_is_left_out_once_a_repeat(tmp_path):
    result = crossval(options(), folds=3, repeats=2, workdir=tmp_path / "cv", source=source())
    deals = [np.concatenate([f.examples for f in result.folds if f.repeat == r]) for r in (0, 1)]
    assert np.array_equal(np.sort(deals[0]), np.sort(deals[1]))
    assert len(np.unique(deals[0])) == len(deals[0]) == 48
    assert not np.array_equal(*deals)
    rows = (tmp_path / "cv" / "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 48


def test_groups_stay_in_one_fold(tmp_path):
    grouped = dataclasses.replace(source(), groups=np.arange(60) // 3)
    result = crossval(options(), folds=3, workdir=tmp_path / "cv", source=grouped)
    seen = [set(grouped.groups[fold.examples]) for fold in result.folds]
    assert sum(map(len, seen)) == len(set.union(*seen))


def test_resume_goes_on_with_the_folds_that_are_left(tmp_path):
    whole = crossval(options(), folds=2, repeats=2, workdir=tmp_path / "a", source=source())

    def stop(said):
        if isinstance(said, Fold) and (said.repeat, said.fold) == (1, 0):
            raise InterruptionError

    arguments = {"folds": 2, "repeats": 2, "workdir": tmp_path / "b", "source": source()}
    with pytest.raises(InterruptionError):
        crossval(options(), tell=stop, **arguments)
    heard = []
    crossval(options(), resume=True, tell=heard.append, **arguments)
    assert heard[0].done == 3
    records = [json.loads((tmp_path / x / "crossval.json").read_text()) for x in "ab"]
    for own, other in zip(*(record["by_fold"] for record in records)):
        assert own["best_step"] == other["best_step"]
        assert own["metrics"]["loss"] == pytest.approx(other["metrics"]["loss"], abs=1e-5)
    assert whole.metrics["loss"].low < whole.metrics["loss"].mean


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ConfigError, match="at least 2 folds"):
        crossval(options(), folds=1, workdir=tmp_path / "x", source=source())
    with pytest.raises(DataError, match="take at most"):
        crossval(options(), folds=50, workdir=tmp_path / "x", source=source())
    with pytest.raises(DataError, match="names a column of a manifest"):
        crossval(options(data__group="person"), workdir=tmp_path / "x")
    crossval(options(), folds=2, workdir=tmp_path / "cv", source=source())
    with pytest.raises(CheckpointError, match="already holds"):
        crossval(options(), folds=2, workdir=tmp_path / "cv", source=source())
    with pytest.raises(CheckpointError, match="begun with 2 folds"):
        crossval(options(), folds=3, workdir=tmp_path / "cv", source=source(), resume=True)


def test_spread_is_wider_than_of_independent_values():
    own, free = (spread_of([0.9, 0.8, 0.85], share) for share in (0.5, 0.0))
    assert own.mean == pytest.approx(0.85)
    assert own.std == pytest.approx(0.05)
    # Student's t at 2 degrees of freedom, from a printed table: 4.303.
    assert free.high - free.mean == pytest.approx(4.303 * 0.05 / 3**0.5, rel=1e-3)
    assert own.high - own.mean == pytest.approx(4.303 * 0.05 * (1 / 3 + 0.5) ** 0.5, rel=1e-3)
