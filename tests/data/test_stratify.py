"""The division of examples in two, class by class, is scikit-learn's."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from jtl.data.sources.bundled import digits
from jtl.data.stratify import stratified

CLASSES = st.lists(st.sampled_from([0, 2, 3, 7]), min_size=1, max_size=80)


@given(
    labels=CLASSES,
    several=st.booleans(),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_both_parts_are_those_of_scikit_learn(labels, several, fraction, seed):
    labels = np.array(labels)
    if several:
        labels = (labels[:, None] >> np.arange(3)) & 1
    places = np.arange(len(labels))
    try:
        expected = train_test_split(places, test_size=fraction, random_state=seed, stratify=labels)
    except ValueError:
        with pytest.raises(ValueError, match="class"):
            stratified(labels, fraction, seed)
        return
    for ours, theirs in zip(stratified(labels, fraction, seed), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_digits_are_those_that_scikit_learn_loads():
    ours, theirs = digits(), load_digits()
    assert ours.classes == tuple(str(name) for name in theirs.target_names)
    np.testing.assert_array_equal(ours.labels, theirs.target)
    grey = np.rint(theirs.images * (255 / 16)).astype(np.uint8)
    np.testing.assert_array_equal(ours.images, np.repeat(grey[..., None], 3, axis=-1))


def test_a_run_is_made_ready_without_scikit_learn(tmp_path):
    code = """
import sys
from jtl.experiment.options import read_config
from jtl.experiment.setup import set_up
from pathlib import Path
set_up(read_config("digits", ()), Path(sys.argv[1]))
assert "sklearn" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
