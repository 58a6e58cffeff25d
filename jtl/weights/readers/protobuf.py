"""Splits a protobuf message into its fields, as views of the bytes and without a schema."""

from collections.abc import Iterator

import numpy as np

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
_BLOCK = 2**16

Field = tuple[int, int | memoryview]


def fields(message: memoryview) -> Iterator[Field]:
    """Each field's number with its value: an integer, or the bytes of anything longer.

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    place = 0
    while place < message.nbytes:
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind == _BYTES:
            length, place = _varint(message, place)
        elif kind in (_FIXED_64, _FIXED_32):
            length = 8 if kind == _FIXED_64 else 4
        else:
            raise ValueError(f"field {number} has the unknown kind {kind}")
        if number == 0 or place + length > message.nbytes:
            raise ValueError(f"field {number} of {length:,} bytes reaches beyond its message")
        yield number, message[place : place + length]
        place += length


def signed(value: int) -> int:
    """A varint as the signed 64-bit integer that it stands for."""
    return value - 2**64 if value >= 2**63 else value


def packed_integers(packed: memoryview) -> np.ndarray:
    """Packed varints, int64 `[count]`.

    Raises:
        ValueError: the bytes end within an integer, or one is too long.
    """
    data = np.frombuffer(packed, np.uint8)
    if data.size and data[-1] & 0x80:
        raise ValueError("packed integers end within one")
    values = np.empty(np.count_nonzero(data < 0x80), np.int64)
    start = done = 0
    while start < data.size:
        # A block ends with an integer: what it cuts in two begins the next one.
        block = data[start : start + _BLOCK]
        ends = np.flatnonzero(block < 0x80)
        if not ends.size:
            raise ValueError("a packed integer is too long")
        values[done : done + ends.size] = _decode(block, ends)
        done += ends.size
        start += int(ends[-1]) + 1
    return values


def _decode(block: np.ndarray, ends: np.ndarray) -> np.ndarray:
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_VARINT:
        raise ValueError("a packed integer is too long")
    values = np.zeros(ends.size, np.uint64)
    for index in range(int(lengths.max())):
        longer = lengths > index
        group = block[starts[longer] + index].astype(np.uint64) & np.uint64(0x7F)
        values[longer] |= group << np.uint64(7 * index)
    return values.view(np.int64)


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for index in range(_LONGEST_VARINT):
        if place + index >= message.nbytes:
            raise ValueError("the message ends within an integer")
        byte = message[place + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & (2**64 - 1), place + index + 1
    raise ValueError("an integer is too long")
