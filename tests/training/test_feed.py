"""Batches are checked before they reach a device."""

import dataclasses
import math

import numpy as np
import pytest

from jtl.errors import DataError
from jtl.training.feed import check_labels
from tests.training.runs import SOURCE, read, run_loop


def spoiled(**changes):
    """The run's batches with these arrays in place of their own from step 1 on."""

    def batches(start, stop):
        for step, batch in enumerate(read(start, stop), start):
            yield {**batch, **(changes if step >= 1 else {})}

    return batches


def test_labels_beyond_the_classes_stop_a_run_with_their_example(tmp_path):
    labels = np.array([0, 1, 3, 2], np.int32)
    with pytest.raises(DataError, match=r"example \d+ has the label 3, but there are 3 classes"):
        run_loop(tmp_path, batches=spoiled(label=labels))


@pytest.mark.parametrize("label", [[0, -1, 2, 1], [0, 5, 2, 1]])
def test_the_first_wrong_label_is_named(label):
    batch = {"label": np.array(label), "example": np.array([7, 70, 2, 9])}
    with pytest.raises(DataError, match=rf"example 70 has the label {label[1]}"):
        check_labels(batch, 3)


def test_labels_of_another_width_are_refused():
    check_labels({"label": np.zeros((4, 3), np.float32)}, 3)
    with pytest.raises(DataError, match="labels of 4 classes, but the network has 3"):
        check_labels({"label": np.zeros((4, 4), np.float32)}, 3)


def test_a_first_loss_that_is_no_number_is_said_at_once(tmp_path):
    images = np.full((4, 2, 2, 3), math.nan, np.float32)

    def batches(start, stop):
        for batch in read(start, stop):
            yield {**batch, "image": images}

    with pytest.raises(DataError, match="loss of the first batch is nan: its images hold"):
        run_loop(tmp_path, batches=batches, log_every=1000)


def test_batches_say_which_example_and_view_they_hold():
    batch = next(iter(read(0, 1)))
    np.testing.assert_array_equal(SOURCE.labels[batch["example"]], batch["label"])
    assert batch["view"].tolist() == [0, 0, 0, 0]
    later = next(iter(read(2, 3)))
    assert later["view"].tolist() == [0, 0, 1, 1]


def test_views_come_again_after_as_many_epochs():
    from tests.training.runs import ORDER

    order = dataclasses.replace(ORDER, views=2)
    seen = np.concatenate([order.view(step) for step in range(10)])
    assert seen.tolist() == [epoch % 2 for epoch in range(4) for _ in range(10)]
