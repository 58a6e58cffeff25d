"""Batches on their way to the devices: read ahead by a thread, or when they are asked for."""

import dataclasses
import threading
from itertools import islice

import numpy as np
import pytest

import jtl
from jtl.training.feed import Streamed
from tests.training.runs import read


@pytest.fixture
def streamed():
    return Streamed(read=read, place=jtl.parallel.single(), classes=3, check=None)


def test_batches_are_the_same_read_ahead_and_when_asked_for(streamed):
    at_once = dataclasses.replace(streamed, ahead=False)
    sides = [list(feed.batches(0, 2, 6)) for feed in (streamed, at_once)]
    assert [len(side) for side in sides] == [4, 4]
    for ahead, asked in zip(*sides, strict=True):
        assert ahead.keys() == asked.keys()
        for name in ahead:
            np.testing.assert_array_equal(ahead[name], asked[name])


def test_a_batch_from_memory_is_made_by_who_asks_for_it_and_not_before(streamed):
    made = []

    def watched(start, stop):
        for batch in read(start, stop):
            made.append(threading.current_thread())
            yield batch

    feed = dataclasses.replace(streamed, read=watched, ahead=False)
    batches = feed.batches(0, 0, 5)
    assert list(islice(batches, 2))
    assert made == [threading.main_thread()] * 2
    batches.close()
    list(dataclasses.replace(feed, ahead=True).batches(0, 0, 2))
    assert threading.main_thread() not in made[2:]
