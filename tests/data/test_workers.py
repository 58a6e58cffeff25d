"""Reading processes: the same batches as threads, errors when they die or stop, none left."""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from jtl.data.ahead import read_ahead
from jtl.data.crop import CropOptions
from jtl.data.pipeline import ReadOptions, TrainOrder, eval_batches, train_batches
from jtl.data.reader import Reader
from jtl.data.workers import read_steps
from jtl.errors import DataError
from tests.data.photos import photo_folder

pytestmark = pytest.mark.slow  # a process takes seconds to start
PATIENCE = 60  # seconds for processes to end, on a busy machine


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    source = photo_folder(tmp_path_factory.mktemp("photos"), count=10)
    return Reader(source=source, size=16, fit=cropped, crop=CropOptions())


def cropped(image):
    return np.ascontiguousarray(image[:16, :16, :3])


def read(reader, start=0, stop=5, **options):
    order = TrainOrder(indices=np.arange(len(reader.source)), batch_size=4, seed=3)
    return train_batches(reader, order, start=start, stop=stop, options=ReadOptions(**options))


def assert_same(left, right):
    left, right = list(left), list(right)
    assert len(left) == len(right) > 0
    for one, other in zip(left, right):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name])


def readers():
    """The processes that read for this one."""
    return [each for each in multiprocessing.active_children() if each.name.startswith("grain-")]


def assert_none_left():
    deadline = time.monotonic() + PATIENCE
    while readers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not readers()


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_those_of_threads_from_any_step_on(reader, workers):
    assert_same(read(reader, workers=workers), read(reader))
    assert_same(read(reader, start=3, workers=workers), read(reader, start=3))
    assert_none_left()


def test_the_last_batch_of_an_evaluation_is_padded_and_not_dropped(reader):
    split = np.arange(10)
    plain = list(eval_batches(reader, split, 4))
    assert_same(eval_batches(reader, split, 4, options=ReadOptions(workers=2)), plain)
    assert [batch["mask"].sum() for batch in plain] == [4, 4, 2]
    seen = np.concatenate([batch["example"][batch["mask"]] for batch in plain])
    np.testing.assert_array_equal(seen, split)


def test_an_error_in_a_process_is_the_error_of_the_run(reader, tmp_path):
    source = photo_folder(tmp_path / "photos")
    (tmp_path / "photos/class1/005.jpeg").unlink()
    broken = dataclasses.replace(reader, source=source)
    with pytest.raises(DataError, match=r"005\.jpeg was changed while .*: it is gone"):
        list(read(broken, workers=1))
    assert_none_left()


def test_a_process_that_is_killed_is_named(reader):
    with contextlib.closing(read(reader, stop=10_000, workers=2)) as batches:
        next(batches)
        os.kill(readers()[0].pid, signal.SIGKILL)
        with pytest.raises(DataError, match=r"a process that reads data has ended .*--resume"):
            list(batches)
    assert_none_left()


class Counting:
    """Steps that take no time."""

    def __getitem__(self, step):
        return {"step": np.array([step])}


def test_a_process_that_stands_still_is_given_up_after_the_time_out():
    steps = read_steps(Counting(), 0, 10_000, 1)
    next(steps)  # as long as a process takes to start
    (stopped,) = readers()
    os.kill(stopped.pid, signal.SIGSTOP)
    said = rf"the readers gave nothing for 1 s \(process {stopped.pid} is stopped\)"
    with pytest.raises(DataError, match=said):
        list(read_ahead(steps, 1, "the readers"))
    assert_none_left()


def test_who_stops_asking_leaves_no_process(reader):
    batches = read(reader, stop=10_000, workers=2)
    next(batches)
    assert len(readers()) == 2
    batches.close()
    assert_none_left()
