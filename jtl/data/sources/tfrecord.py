"""TFRecord files without TensorFlow: where each record lies, and one record by its place."""

import os
import struct
from functools import lru_cache

import numpy as np

from jtl.data.sources.listing import open_regular
from jtl.data.sources.names import shown
from jtl.errors import ChangedDataError, DataError

# A record is its length (uint64), that length's checksum, the data, and the data's checksum, little
# endian (tensorflow/core/lib/io/record_writer.h).
_HEAD = struct.Struct("<QI")
_TAIL = 4
_AROUND = _HEAD.size + _TAIL  # bytes of a record that are not its data
_CASTAGNOLI = 0x82F63B78  # CRC-32C's polynomial, reversed (RFC 3720, B.4)
_MASK = 0xA282EAD8  # tensorflow/core/lib/hash/crc32c.h


def scan_records(path: str) -> np.ndarray:
    """Where the records of a file begin, read from their headers alone.

    Args:
        path: of an uncompressed TFRecord file.

    Returns:
        int64 `[records + 1]`, bytes from the file's start; the last is the file's size.

    Raises:
        DataError: the file cannot be opened, is cut off, or a length's checksum is wrong.
    """
    starts = [0]
    try:
        with open_regular(path) as (descriptor, status):
            while (place := starts[-1]) < status.st_size:
                length = _length(os.pread(descriptor, _HEAD.size, place), path, place)
                if place + _AROUND + length > status.st_size:
                    raise _damaged(path, place, "is cut off")
                starts.append(place + _AROUND + length)
    except OSError as error:
        raise DataError(f"{shown(path)} cannot be read: {error.strerror}.") from error
    return np.array(starts, np.int64)


def read_record(descriptor: int, path: str, start: int, stop: int) -> bytes:
    """The data of one record; its own checksum is left to whoever parses it.

    Args:
        descriptor: of the opened file; its position is neither used nor moved.
        path: what messages call it.
        start: where the record begins, as `scan_records` found it.
        stop: where the next one does.

    Raises:
        ChangedDataError: no record of that length lies there any more.
    """
    whole = os.pread(descriptor, stop - start, start)
    length = stop - start - _AROUND
    if len(whole) < stop - start or whole[: _HEAD.size] != _head(length):
        raise ChangedDataError(
            f"{shown(path)} was changed while the dataset was in use: the record at byte {start} "
            "is not the one that was listed; start again once nothing writes there."
        )
    return whole[_HEAD.size : -_TAIL]


def masked_crc32c(data: bytes) -> int:
    """The checksum that TFRecord files keep of a length and of data.

    A byte at a time: meant for the 8 bytes of a length.
    """
    table, state = _table(), 0xFFFFFFFF
    for byte in data:
        state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
    plain = state ^ 0xFFFFFFFF
    return ((plain >> 15 | plain << 17) + _MASK) & 0xFFFFFFFF


def _length(head: bytes, path: str, place: int) -> int:
    if len(head) < _HEAD.size:
        raise _damaged(path, place, "is cut off")
    length, checksum = _HEAD.unpack_from(head)
    if masked_crc32c(head[:8]) != checksum:
        raise _damaged(path, place, "has a length that its checksum denies")
    return int(length)


def _head(length: int) -> bytes:
    return _HEAD.pack(length, masked_crc32c(length.to_bytes(8, "little")))


def _damaged(path: str, place: int, how: str) -> DataError:
    return DataError(
        f"{shown(path)} is damaged: the record at byte {place} {how}; delete the dataset's folder "
        "and prepare it anew."
    )


@lru_cache(maxsize=1)
def _table() -> tuple[int, ...]:
    return tuple(_shifted(byte) for byte in range(256))


def _shifted(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_CASTAGNOLI if value & 1 else 0)
    return value
