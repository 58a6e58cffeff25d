"""Reading ahead: the same items in order, errors in their place, and patience that ends."""

import threading

import pytest

from jtl.data.ahead import read_ahead
from jtl.errors import DataError


def numbers(count, closed=None):
    try:
        yield from range(count)
    finally:
        if closed is not None:
            closed.set()


@pytest.mark.parametrize("depth", [1, 3])
def test_items_come_in_order(depth):
    assert list(read_ahead(numbers(50), 60, "it", depth)) == list(range(50))
    assert list(read_ahead(numbers(0), None, "it", depth)) == []


def test_an_error_comes_where_the_item_would_have():
    def failing():
        yield 1
        raise DataError("the second is damaged")

    items = read_ahead(failing(), 60, "it")
    assert next(items) == 1
    with pytest.raises(DataError, match="the second is damaged"):
        next(items)


def test_what_is_read_is_closed_once_no_more_is_wanted():
    closed = threading.Event()
    items = read_ahead(numbers(10**9, closed), 60, "it")
    next(items)
    items.close()
    assert closed.wait(60)


def test_an_item_is_made_while_another_is_in_use():
    made = threading.Event()

    def two():
        yield 1
        made.set()
        yield 2

    items = read_ahead(two(), 60, "it")
    assert next(items) == 1
    assert made.wait(60)
    assert list(items) == [2]


def test_what_gives_nothing_in_time_is_named_with_the_option():
    free = threading.Event()

    def stuck():
        yield 1
        free.wait(60)

    items = read_ahead(stuck(), 0.05, "the data's readers")
    next(items)
    timer = threading.Timer(1.0, free.set)
    timer.start()
    said = r"the data's readers gave nothing for 0\.05 s; .*raise data\.read\.timeout"
    with pytest.raises(DataError, match=said):
        next(items)
    timer.join()
