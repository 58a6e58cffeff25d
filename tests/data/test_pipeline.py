"""Batches: every epoch a permutation, any step reachable, evaluation complete and masked."""

import dataclasses
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jtl.data.pipeline import TrainOrder, eval_batches, train_batches
from jtl.data.reader import Reader
from jtl.data.sources.arrays import ArraySource
from jtl.errors import DataError

COUNT = 23
SOURCE = ArraySource(
    images=np.arange(COUNT * 12, dtype=np.uint16).astype(np.uint8).reshape(COUNT, 2, 2, 3),
    labels=np.arange(COUNT, dtype=np.int32),
    classes=tuple(map(str, range(COUNT))),
)
READER = Reader(source=SOURCE, size=2, fit=lambda image: image)
sizes = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)


def order_of(examples=COUNT, batch_size=4, seed=0):
    return TrainOrder(indices=np.arange(examples), batch_size=batch_size, seed=seed)


def seen(order, steps):
    return np.concatenate([order[step] for step in range(steps)])


@given(sizes, sizes, seeds)
def test_every_epoch_is_a_permutation_of_its_own(examples, batch_size, seed):
    order = order_of(examples, batch_size, seed)
    drawn = seen(order, order.steps(3))[: 3 * examples].reshape(3, examples)
    np.testing.assert_array_equal(np.sort(drawn), np.tile(np.arange(examples), (3, 1)))
    if examples > 20:
        assert len({tuple(epoch) for epoch in drawn}) == 3


@given(sizes, sizes, st.integers(0, 10**7), seeds)
def test_any_step_can_be_asked_for(examples, batch_size, step, seed):
    first, again = order_of(examples, batch_size, seed), order_of(examples, batch_size, seed)
    np.testing.assert_array_equal(first[step], again[step])
    assert first[step].shape == (batch_size,)


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 50), st.sampled_from([None, 1, 3]))
def test_a_step_takes_as_many_epochs_as_it_needs(examples, batch_size, step, views):
    order = dataclasses.replace(order_of(examples, batch_size), views=views)
    singly = dataclasses.replace(order, batch_size=1)
    places = range(step * batch_size, (step + 1) * batch_size)
    assert order[step].tolist() == [int(singly[place][0]) for place in places]
    epochs = [place // examples for place in places]
    assert order.view(step).tolist() == [e if views is None else e % views for e in epochs]
    assert (order[step].dtype, order.view(step).dtype) == (order.indices.dtype, np.int32)


def test_the_order_follows_the_seed():
    assert not np.array_equal(seen(order_of(), 6), seen(order_of(seed=1), 6))


def test_only_the_split_is_drawn_from():
    split = np.array([3, 17, 4, 99])
    order = TrainOrder(indices=split, batch_size=4, seed=0)
    assert set(order[0]) == set(split)


@given(sizes, sizes, st.sampled_from([0.1, 0.5, 1, 2, 3.7, 10]))
def test_steps_are_the_fewest_that_see_enough(examples, batch_size, epochs):
    order = order_of(examples, batch_size)
    steps = order.steps(epochs)
    assert steps >= 1
    assert order.epoch(steps) >= epochs - 1e-6
    assert steps == 1 or order.epoch(steps - 1) < epochs


def test_an_empty_split_is_refused():
    with pytest.raises(DataError, match="training split has no examples"):
        order_of(0)


def batches_of(start=0, stop=12, threads=1, batch_size=4):
    order = order_of(batch_size=batch_size)
    reader = dataclasses.replace(READER, threads=threads)
    return train_batches(reader, order, start=start, stop=stop)


def assert_same(left, right):
    left, right = list(left), list(right)
    assert len(left) == len(right)
    for one, other in zip(left, right):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name])


def test_batches_hold_what_the_order_says():
    order = order_of()
    for step, batch in enumerate(batches_of()):
        np.testing.assert_array_equal(batch["label"], order[step])
        np.testing.assert_array_equal(batch["image"], SOURCE.images[order[step]])
        np.testing.assert_array_equal(batch["position"], np.arange(4))
        assert batch["position"].dtype == np.int32
        assert batch["mask"].all()


@pytest.mark.parametrize("start", [1, 5, 11, 12])
def test_starting_late_is_starting_early_and_skipping(start):
    assert_same(batches_of(start=start), islice(batches_of(), start, None))


def test_threads_do_not_change_the_order():
    assert_same(batches_of(threads=1), batches_of(threads=4))


def test_batches_end_where_they_should():
    assert len(list(batches_of(start=3, stop=7))) == 4


@given(st.integers(1, COUNT), st.integers(1, 30))
def test_evaluation_sees_every_example_once_and_in_order(examples, batch_size):
    split = np.arange(COUNT)[::-1][:examples]
    labels = []
    for batch in eval_batches(READER, split, batch_size):
        assert {len(leaf) for leaf in batch.values()} == {batch_size}
        np.testing.assert_array_equal(batch["position"], np.arange(batch_size))
        np.testing.assert_array_equal(SOURCE.images[batch["label"]], batch["image"])
        labels.append(batch["label"][batch["mask"]])
    np.testing.assert_array_equal(np.concatenate(labels), split)


def test_evaluation_of_nothing_has_no_batches():
    assert list(eval_batches(READER, np.array([], int), 4)) == []


@given(st.integers(1, COUNT), st.sampled_from([2, 4, 8]), st.sampled_from([1, 2, 4]))
def test_shares_of_processes_make_up_the_batches(examples, batch_size, processes):
    processes = min(processes, batch_size)
    reader, split = READER, np.arange(examples)
    order = TrainOrder(indices=split, batch_size=batch_size, seed=5)
    rows = batch_size // processes
    shares = [slice(n * rows, (n + 1) * rows) for n in range(processes)]
    for read in (
        lambda share: train_batches(reader, order, start=1, stop=4, share=share),
        lambda share: eval_batches(reader, split, batch_size, share),
    ):
        parts = [list(read(share)) for share in shares]
        for whole, *own in zip(read(slice(None)), *parts):
            for name, leaf in whole.items():
                np.testing.assert_array_equal(np.concatenate([p[name] for p in own]), leaf)
