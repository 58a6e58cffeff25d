"""Garbage is looked for less often while a run trains, and as before when it has ended."""

import gc

import pytest

from jtl.training.events import Taken
from jtl.training.garbage import rare_collections
from tests.training.runs import run_loop


@pytest.fixture(autouse=True)
def threshold():
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)


def test_steps_are_taken_with_rare_collections(tmp_path, threshold):
    seen = []

    def hear(event):
        if isinstance(event, Taken):
            seen.append(gc.get_threshold())

    run_loop(tmp_path, listeners=(hear,))
    assert seen
    assert all(own[0] > 10 * threshold[0] and own[1:] == threshold[1:] for own in seen)
    assert gc.get_threshold() == threshold


def test_an_error_leaves_it_as_it_was(threshold):
    with pytest.raises(KeyError), rare_collections():
        raise KeyError
    assert gc.get_threshold() == threshold


@pytest.mark.parametrize("own", [(0, 10, 10), (10**6, 5, 5)])
def test_who_looks_for_less_is_left_alone(own):
    gc.set_threshold(*own)
    with rare_collections():
        assert gc.get_threshold() == own
    assert gc.get_threshold() == own


def test_the_last_of_several_to_end_leaves_it_as_it_was(threshold):
    first, second = rare_collections(), rare_collections()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold()[0] > threshold[0]
    second.__exit__(None, None, None)
    assert gc.get_threshold() == threshold
