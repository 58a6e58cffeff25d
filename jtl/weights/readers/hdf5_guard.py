"""Checks of an HDF5 file's bytes that its library leaves out, so that damage would hang it."""

from collections.abc import Iterator

import numpy as np

from jtl.errors import WeightsError

SIGNATURE = b"\x89HDF\r\n\x1a\n"

# A global heap, which holds texts: signature, version 1, three zeros, its size, its objects. Each
# object: index, count, four zeros, size and the bytes, padded to eight. Index 0 is the free rest.
_HEAP = b"GCOL\x01"
_HEAP_HEADER = 16
_OBJECT_HEADER = 16
_BLOCK = 2**20


def check_structure(where: str, data: np.ndarray) -> None:
    """Stops a file on whose texts the HDF5 library (2.0.0) would never finish.

    Args:
        where: the file, for messages.
        data: its bytes, uint8 `[bytes]`.

    Raises:
        WeightsError: the file is no HDF5 file of the usual kind, or a heap of texts is damaged.
    """
    head = data[:16].tobytes()
    if len(head) < 16 or not head.startswith(SIGNATURE):
        raise WeightsError(f"{where}: is damaged as an HDF5 file; fetch or save it again.")
    # The widths of places and lengths, of which all that wrote weights use eight bytes.
    widths = head[13:15] if head[8] < 2 else head[9:11]
    if widths != b"\x08\x08":
        raise WeightsError(
            f"{where}: is an HDF5 file with places of {widths[0]} and lengths of {widths[1]} "
            "bytes; only 8 are read, so save it again."
        )
    for place in _find(data, _HEAP):
        _check_heap(where, data, place)


def _check_heap(where: str, data: np.ndarray, start: int) -> None:
    """Every object must lie within the heap, and the walk over them must advance."""
    end = start + _number(data, start + 8)
    place = start + _HEAP_HEADER
    is_sound = place <= end <= data.nbytes
    while is_sound and place + _OBJECT_HEADER <= end:
        index, size = _number(data, place, 2), _number(data, place + 8)
        step = _OBJECT_HEADER + -(-size // 8) * 8 if index else size
        is_sound = _OBJECT_HEADER <= step <= end - place
        place += step
    if not is_sound:
        raise WeightsError(
            f"{where}: the texts at byte {start:,} are damaged; fetch or save the file again."
        )


def _number(data: np.ndarray, place: int, width: int = 8) -> int:
    return int.from_bytes(data[place : place + width].tobytes(), "little")


def _find(data: np.ndarray, pattern: bytes) -> Iterator[int]:
    """Every place of a pattern, block by block so that the file is never copied whole."""
    for start in range(0, data.nbytes, _BLOCK):
        block = data[start : start + _BLOCK + len(pattern) - 1].tobytes()
        place = block.find(pattern)
        while place >= 0:
            yield start + place
            place = block.find(pattern, place + 1)
