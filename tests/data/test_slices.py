"""Slices of named splits: complete, disjoint where they should be, in proportion, and checked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jtl.data.slices import slice_named
from jtl.data.splits import SplitOptions, make_splits
from jtl.errors import DataError

LABELS = np.repeat(np.arange(4), 50)[np.random.default_rng(0).permutation(200)]
NAMED = {"train": np.arange(150), "val": np.arange(150, 200)}


def taken(text, seed=0):
    return slice_named(text, LABELS, NAMED, seed, "data.split.val")


@given(st.integers(0, 100), st.integers(0, 50))
def test_the_parts_on_both_sides_of_an_edge_make_up_the_whole(percent, seed):
    first, second = taken(f"train[:{percent}%]", seed), taken(f"train[{percent}%:]", seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), NAMED["train"])
    assert len(first) == round(percent / 100 * 150)


@given(st.integers(4, 150))
def test_a_slice_has_the_classes_in_proportion(count):
    counts = np.bincount(LABELS[taken(f"train[:{count}]")], minlength=4)
    whole = np.bincount(LABELS[:150], minlength=4)
    np.testing.assert_allclose(counts, whole * count / 150, atol=1.5)


def test_splits_add_up_and_numbers_count_from_both_ends():
    np.testing.assert_array_equal(taken("train+val"), np.arange(200))
    np.testing.assert_array_equal(taken("all"), np.arange(200))
    np.testing.assert_array_equal(taken("train[-30:]"), taken("train[120:]"))
    assert len(taken("train[10%:20%]+val[:5]")) == 20


def test_a_config_takes_slices_for_each_of_the_splits():
    options = SplitOptions(train="train[:80%]", val="train[80%:]", test="val")
    splits = make_splits(LABELS, options, 0, named=NAMED)
    assert [len(splits[name]) for name in ("train", "val", "test")] == [120, 30, 50]
    np.testing.assert_array_equal(splits["test"], NAMED["val"])
    rest = make_splits(LABELS, SplitOptions(val="train[:10%]", test=0.0), 0, named=NAMED)
    assert len(rest["train"]) == 135


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tran", "no split 'tran'; it has train, val, all. Did you mean 'train'"),
        ("test", "the source has no split 'test'"),
        ("train[:x]", "'x' is neither a whole number of examples nor a percentage"),
        ("train[:1.5]", "'1.5' is neither"),
        ("train[1]", "is no slice"),
        ("train++val", "is no slice"),
        ("train[:60%]+train[50%:]", "takes some examples twice"),
    ],
)
def test_what_is_no_slice_says_how_one_looks(text, said):
    with pytest.raises(DataError, match=rf"data\.split\.val=.*{said}"):
        taken(text)


def test_slices_that_overlap_are_refused():
    options = SplitOptions(train="train", val="train[:10%]", test=0.0)
    with pytest.raises(DataError, match="train and val share 15 examples"):
        make_splits(LABELS, options, 0, named=NAMED)
