"""The values of one HDF5 dataset, taken from the file's bytes without the HDF5 library.

The library finds where a dataset lies; a damaged chunked one can make it allocate without end or
die when it reads the values too, so that they are read and unpacked here.
"""

import itertools
import math
import zlib
from collections.abc import Sequence

import h5py
import ml_dtypes
import numpy as np

from jtl.errors import WeightsError
from jtl.weights.readers.mapped import array_at, row_major
from jtl.weights.readers.weight_file import size_limit

_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3
_MOST_CHUNKS = 1_000_000
_BLOCK = 2**16


def element_type(dtype: np.dtype) -> np.dtype | None:
    """The numbers that a dataset holds; None for text, records and references."""
    if dtype.kind in "biufc":
        return dtype
    # HDF5 knows no bfloat16: Keras stores its two bytes as opaque ones.
    return np.dtype(ml_dtypes.bfloat16) if dtype == np.dtype("V2") else None


def read_values(where: str, data: np.ndarray, dataset: h5py.Dataset) -> np.ndarray:
    """A dataset's numbers: a view of the file if they lie in one piece, else unpacked.

    Args:
        where: the file and the dataset, for messages.
        data: the file's bytes, uint8 `[bytes]`.
        dataset: one whose `element_type` is not None.

    Raises:
        WeightsError: the values are missing, reach beyond the file, or are stored in a way that
            weights never are.
    """
    dtype, shape = element_type(dataset.dtype), dataset.shape
    if dtype is None or h5py.h5t.py_create(dataset.dtype) != dataset.id.get_type():
        raise WeightsError(f"{where} holds numbers of an unusual kind; save it as float32.")
    if 0 in shape:
        return np.empty(shape, dtype)
    layout = dataset.id.get_create_plist()
    kind = layout.get_layout()
    if kind == h5py.h5d.CONTIGUOUS and dataset.id.get_offset() is not None:
        offset = dataset.id.get_offset()
        return array_at(data, dtype=dtype, shape=shape, offset=offset, where=where)
    if kind == h5py.h5d.CHUNKED:
        return _read_chunks(where, data, dataset, dtype, layout)
    raise WeightsError(f"{where} has no values, neither in one piece nor in chunks; save it again.")


def _read_chunks(
    where: str,
    data: np.ndarray,
    dataset: h5py.Dataset,
    dtype: np.dtype,
    layout: h5py.h5p.PropDCID,
) -> np.ndarray:
    shape, chunk = dataset.shape, layout.get_chunk()
    if len(chunk) != len(shape) or min(chunk) < 1:
        raise WeightsError(f"{where} has chunks of another rank than its shape; save it again.")
    if math.prod(chunk) * dtype.itemsize > size_limit(data.nbytes):
        raise WeightsError(
            f"{where} claims chunks of {math.prod(chunk) * dtype.itemsize:,} bytes; fetch or save "
            "the file again."
        )
    grid = [range(0, side, step) for side, step in zip(shape, chunk)]
    if math.prod(map(len, grid)) > _MOST_CHUNKS:
        raise WeightsError(f"{where} is cut into too many chunks; save it uncompressed.")
    stored = _stored_chunks(dataset)
    filters = _filters(where, layout)
    values: np.ndarray = np.empty(shape, dtype)
    for corner in itertools.product(*grid):
        if corner not in stored:
            raise WeightsError(f"{where}: the chunk at {list(corner)} is missing; save it again.")
        mask, offset, size = stored[corner]
        packed = data[offset : offset + size]
        used = [step for index, step in enumerate(filters) if not mask >> index & 1]
        unpacked = _unpack(where, packed, used, math.prod(chunk) * dtype.itemsize)
        piece = np.ndarray(chunk, dtype, buffer=unpacked, strides=row_major(chunk, dtype.itemsize))
        inside = [slice(start, start + step) for start, step in zip(corner, chunk)]
        target = values[tuple(inside)]
        target[...] = piece[tuple(slice(side) for side in target.shape)]
    return values


def _stored_chunks(dataset: h5py.Dataset) -> dict[tuple[int, ...], tuple[int, int, int]]:
    """Each chunk's filter mask, place and size in bytes, by the place of its first element."""
    stored: dict[tuple[int, ...], tuple[int, int, int]] = {}

    def note(info: h5py.h5d.StoreInfo) -> None:
        if info.byte_offset is None or len(stored) > _MOST_CHUNKS:
            raise ValueError("chunks without a place or without end")
        stored[tuple(info.chunk_offset)] = (info.filter_mask, info.byte_offset, info.size)

    dataset.id.chunk_iter(note)
    return stored


def _filters(where: str, layout: h5py.h5p.PropDCID) -> list[tuple[int, Sequence[int]]]:
    """The filters with their options, in the order in which they were applied."""
    found = [layout.get_filter(index)[:3] for index in range(layout.get_nfilters())]
    unknown = sorted({code for code, _, _ in found} - {_DEFLATE, _SHUFFLE, _FLETCHER32})
    if unknown:
        raise WeightsError(
            f"{where} is packed with the HDF5 filter {unknown[0]}, which is not read; save it "
            "with gzip or uncompressed."
        )
    return [(code, options) for code, _, options in found]


def _unpack(
    where: str, packed: np.ndarray, filters: list[tuple[int, Sequence[int]]], size: int
) -> np.ndarray:
    """Undoes the filters of one chunk; the result is uint8 `[size]`."""
    content = packed
    for code, options in reversed(filters):
        if code == _FLETCHER32:
            content = _checked(where, content)
        elif code == _SHUFFLE:
            content = _unshuffled(content, options[0] if options else 1)
        else:
            try:
                # Checksums appended before packing make a chunk a little longer.
                unpacked = zlib.decompressobj().decompress(content.data, size + 64)
            except zlib.error as error:
                raise WeightsError(f"{where}: a chunk cannot be unpacked ({error}).") from error
            content = np.frombuffer(unpacked, np.uint8)
    if content.nbytes != size:
        raise WeightsError(
            f"{where}: a chunk unpacks to {content.nbytes:,} bytes where {size:,} belong; fetch "
            "or save the file again."
        )
    return np.ascontiguousarray(content)


def _unshuffled(content: np.ndarray, width: int) -> np.ndarray:
    """Bytes back in the order of elements; a rest shorter than an element stays at the end."""
    whole = content.nbytes // width * width if width > 0 else 0
    if not whole:
        return content
    elements = content[:whole].reshape(width, -1).T.reshape(-1)
    return np.concatenate([elements, content[whole:]])


def _checked(where: str, content: np.ndarray) -> np.ndarray:
    """The chunk without its Fletcher-32 checksum, which must agree."""
    body, stored = content[:-4], content[-4:]
    if content.nbytes < 4 or _fletcher32(body) != int.from_bytes(stored.tobytes(), "little"):
        raise WeightsError(f"{where}: a chunk does not match its checksum; fetch it again.")
    return body


def _fletcher32(body: np.ndarray) -> int:
    """HDF5's variant: 16-bit big-endian words, an odd byte at the end as a high one."""
    padded = np.concatenate([body, np.zeros(1, np.uint8)]) if body.nbytes % 2 else body
    words = padded.view(">u2")
    first = second = 0
    for start in range(0, words.size, _BLOCK):
        block = words[start : start + _BLOCK].astype(np.uint64)
        # Every word is counted once for itself and once for each word behind it.
        counts = np.arange(block.size, 0, -1, dtype=np.uint64)
        second = (second + block.size * first + int((block * counts).sum())) % 65535
        first = (first + int(block.sum())) % 65535
    # The library folds carries back in, so that a multiple of 65535 stays 65535.
    if words.any():
        first, second = first or 65535, second or 65535
    return second << 16 | first
