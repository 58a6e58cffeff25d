"""Folds: each example validates once, classes stay in proportion, groups stay together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.data.folds import FoldOptions, make_folds
from jtl.data.splits import SplitOptions, make_splits
from jtl.errors import ConfigError, DataError

LABELS = np.tile(np.arange(3), 40)
GROUPS = np.arange(120) // 6


@settings(max_examples=20)
@given(st.integers(2, 8), st.integers(0, 1000))
def test_every_example_validates_once_and_trains_in_all_other_folds(count, seed):
    indices = np.arange(0, 120, 1)
    folds = make_folds(indices, LABELS, count, seed)
    assert len(folds) == count
    np.testing.assert_array_equal(np.sort(np.concatenate([own for _, own in folds])), indices)
    for train, val in folds:
        np.testing.assert_array_equal(np.sort(np.concatenate([train, val])), indices)
        counts = np.bincount(LABELS[val], minlength=3)
        assert counts.max() - counts.min() <= 1


@settings(max_examples=20)
@given(st.integers(2, 6), st.integers(0, 1000))
def test_groups_stay_in_one_fold(count, seed):
    for train, val in make_folds(np.arange(120), LABELS, count, seed, GROUPS):
        assert not set(GROUPS[train]) & set(GROUPS[val])
        assert len(val)


def test_a_config_takes_one_fold_and_leaves_the_test_alone():
    plain = make_splits(LABELS, SplitOptions(test=0.25), 0)
    validated = []
    for index in range(3):
        fold = FoldOptions(count=3, index=index)
        splits = make_splits(LABELS, SplitOptions(test=0.25, fold=fold), 0)
        np.testing.assert_array_equal(splits["test"], plain["test"])
        assert len(np.intersect1d(splits["train"], splits["val"])) == 0
        validated.append(splits["val"])
    rest = np.concatenate([plain["train"], plain["val"]])
    np.testing.assert_array_equal(np.sort(np.concatenate(validated)), np.sort(rest))


def test_fractions_do_not_part_groups_either():
    splits = make_splits(LABELS, SplitOptions(), 0, groups=GROUPS)
    held = [set(GROUPS[own]) for own in splits.values()]
    assert sum(map(len, held)) == len(set().union(*held)) == 20


def test_more_folds_than_examples_of_a_class_or_groups_are_refused():
    with pytest.raises(DataError, match="41 folds, but the smallest class has 40 examples"):
        make_folds(np.arange(120), LABELS, 41)
    with pytest.raises(DataError, match="21 folds, but there are only 20 groups"):
        make_folds(np.arange(120), LABELS, 21, 0, GROUPS)
    with pytest.raises(ConfigError, match=r"index=5 is not one of count=5 folds, 0 to 4"):
        FoldOptions(index=5)
