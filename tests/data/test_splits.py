"""Splits: disjoint, complete, in proportion, and the same wherever they should be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jtl.data.splits import SplitOptions, make_splits
from jtl.errors import DataError

LABELS = np.repeat(np.arange(4), [100, 60, 40, 20])[np.random.default_rng(0).permutation(220)]


def splits_of(run_seed=0, labels=LABELS, **options):
    return make_splits(labels, SplitOptions(**options), run_seed)


@given(
    st.sampled_from([0.0, 0.1, 0.25, 0.4]),
    st.sampled_from([0.0, 0.2, 0.5]),
    st.integers(0, 10_000),
)
def test_splits_are_disjoint_complete_and_in_proportion(val, test, seed):
    splits = splits_of(val=val, test=test, seed=seed)
    everything = np.concatenate(list(splits.values()))
    np.testing.assert_array_equal(np.sort(everything), np.arange(220))
    for name, share in {"val": val, "test": test, "train": 1 - val - test}.items():
        counts = np.bincount(LABELS[splits[name]], minlength=4)
        np.testing.assert_allclose(counts, share * np.array([100, 60, 40, 20]), atol=1.01)


def test_indices_are_sorted():
    assert all((np.diff(own) > 0).all() for own in splits_of().values())


@given(st.integers(0, 10_000))
def test_the_test_split_depends_on_its_own_seed_alone(run_seed):
    expected = splits_of()
    for other in (splits_of(run_seed), splits_of(run_seed, val=0.1), splits_of(run_seed, shots=3)):
        np.testing.assert_array_equal(other["test"], expected["test"])
    np.testing.assert_array_equal(splits_of(run_seed)["val"], expected["val"])
    assert not np.array_equal(splits_of(seed=1)["test"], expected["test"])


def test_splits_are_the_same_on_every_machine():
    # Drawn with scikit-learn 1.9 and numpy 2.4; runs made elsewhere are compared on these.
    splits = splits_of(labels=np.repeat(np.arange(3), 10), seed=5)
    assert splits["test"].tolist() == [3, 6, 10, 19, 21, 24]
    assert splits["val"].tolist() == [2, 4, 16, 17, 25, 29]


def test_a_share_of_0_is_an_empty_split():
    splits = splits_of(val=0.0, test=0.0)
    assert [len(splits[name]) for name in ("train", "val", "test")] == [220, 0, 0]


@given(st.integers(1, 10), st.integers(0, 1000))
def test_shots_keep_so_many_of_each_class_and_no_others(shots, run_seed):
    whole, few = splits_of(run_seed), splits_of(run_seed, shots=shots)
    assert np.bincount(LABELS[few["train"]]).tolist() == [shots] * 4
    assert set(few["train"]) <= set(whole["train"])
    for name in ("val", "test"):
        np.testing.assert_array_equal(few[name], whole[name])


def test_shots_follow_the_seed_of_the_run():
    first, again, other = (splits_of(seed, shots=3)["train"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_more_shots_than_examples_say_how_many_there_are():
    with pytest.raises(DataError, match="class 3 has only 12 training examples; set at most 12"):
        splits_of(shots=13)


def test_shares_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(DataError, match=r"val=0\.5 and test=0\.5 leave nothing to train on"):
        splits_of(val=0.5, test=0.5)


def test_a_class_too_small_to_be_split_is_refused():
    with pytest.raises(DataError, match=r"the smallest class has 1: give it more examples"):
        splits_of(labels=np.array([0] * 20 + [1]))
