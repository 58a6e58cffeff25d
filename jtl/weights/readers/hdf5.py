"""Walks an HDF5 file held in bytes: plain arrays and text attributes, nothing outside the bytes."""

import dataclasses
import io
import math
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from jtl.errors import WeightsError
from jtl.weights.readers.mapped import array_at
from jtl.weights.readers.weight_file import check_expansion, size_limit

SIGNATURE = b"\x89HDF\r\n\x1a\n"

# deflate, shuffle, fletcher32, nbit, scaleoffset, lzf: built in. HDF5 would look for any other
# filter among the plug-ins of the machine and run it.
_FILTERS = frozenset({1, 2, 3, 5, 6, 32000})
_MOST_OBJECTS = 200_000
_DEEPEST = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hdf5Content:
    """What an HDF5 file holds.

    Attributes:
        arrays: by path without a leading slash; views of the file's bytes where it stores them
            plainly.
        attributes: text and lists of text, by the path of their group (`""` is the root).
    """

    arrays: Mapping[str, np.ndarray]
    attributes: Mapping[str, Mapping[str, str | list[str]]]


def read_hdf5(where: str, data: np.ndarray) -> Hdf5Content:
    """Everything in an HDF5 file.

    Args:
        where: the file, for messages.
        data: its bytes, uint8 `[bytes]`.

    Raises:
        WeightsError: the file is damaged, links to other files or keeps data in them, or claims
            sizes far beyond its own.
    """
    try:
        # Without file locks and paths: HDF5 sees only these bytes.
        with h5py.File(_Bytes(data), "r") as file:
            return _read_content(where, data, file)
    except WeightsError:
        raise
    # h5py turns each failed check of the HDF5 library into whichever exception it finds nearest.
    except Exception as error:
        text = " ".join(str(error).split())
        raise WeightsError(
            f"{where}: is damaged as an HDF5 file ({text}); fetch or save it again."
        ) from error


def _read_content(where: str, data: np.ndarray, file: h5py.File) -> Hdf5Content:
    objects = list(_walk(where, file))
    datasets = {path: node for path, node in objects if isinstance(node, h5py.Dataset)}
    claimed = 0
    for path, dataset in datasets.items():
        _check_dataset(f"{where}: dataset {path!r}", dataset)
        claimed += math.prod(dataset.shape or (0,)) * dataset.dtype.itemsize
    check_expansion(where, data.nbytes, claimed)
    arrays = {}
    for path, dataset in datasets.items():
        if dataset.shape is not None and _element_type(dataset.dtype) is not None:
            arrays[path] = _read_dataset(f"{where}: dataset {path!r}", data, dataset)
    attributes = {
        path: _text_attributes(f"{where}: group {path!r}", data.nbytes, node)
        for path, node in objects
        if isinstance(node, h5py.Group)
    }
    return Hdf5Content(arrays=arrays, attributes=attributes)


def _walk(where: str, root: h5py.Group) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """Every group and dataset once; a link that leaves the tree is an error."""
    visited: set[Any] = set()
    waiting: list[tuple[str, h5py.Group]] = [("", root)]
    while waiting:
        path, group = waiting.pop()
        identity = h5py.h5o.get_info(group.id)
        if identity.addr in visited or path.count("/") > _DEEPEST or len(visited) > _MOST_OBJECTS:
            raise WeightsError(
                f"{where}: group {path!r} is reached twice, or there are too many; weights are "
                "a plain tree, so save them again."
            )
        visited.add(identity.addr)
        yield path, group
        for name in group:
            place = f"{path}/{name}" if path else name
            node = _follow(where, place, group, name)
            if isinstance(node, h5py.Group):
                waiting.append((place, node))
            elif isinstance(node, h5py.Dataset):
                visited.add(h5py.h5o.get_info(node.id).addr)
                yield place, node


def _follow(where: str, place: str, group: h5py.Group, name: str) -> Any:
    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        target = f"the file {link.filename!r}"
    elif isinstance(link, h5py.SoftLink):
        target = f"another place, {link.path!r}"
    else:
        return group[name]
    raise WeightsError(
        f"{where}: {place!r} is a link to {target}; weights must lie in the file itself. "
        "Copy the data into one file."
    )


def _check_dataset(where: str, dataset: h5py.Dataset) -> None:
    layout = dataset.id.get_create_plist()
    if dataset.is_virtual or layout.get_external_count():
        raise WeightsError(
            f"{where} keeps its values in other files; weights must lie in the file itself. "
            "Copy the data into one file."
        )
    filters = {layout.get_filter(index)[0] for index in range(layout.get_nfilters())}
    if filters - _FILTERS:
        raise WeightsError(
            f"{where} is packed with the HDF5 filter {sorted(filters - _FILTERS)[0]}, a plug-in "
            "that would have to be run; save it with gzip or uncompressed."
        )


def _read_dataset(where: str, data: np.ndarray, dataset: h5py.Dataset) -> np.ndarray:
    dtype = _element_type(dataset.dtype)
    offset = dataset.id.get_offset()
    is_plain = h5py.h5t.py_create(dataset.dtype) == dataset.id.get_type()
    if offset is not None and is_plain and dtype is not None:
        return array_at(data, dtype=dtype, shape=dataset.shape, offset=offset, where=where)
    chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    if chunk > size_limit(data.nbytes):
        raise WeightsError(
            f"{where} claims chunks of {chunk:,} bytes; fetch or save the file again."
        )
    values: np.ndarray = np.empty(dataset.shape, dataset.dtype)
    if values.size:
        dataset.read_direct(values)
    return values if dtype is None else values.view(dtype)


def _element_type(dtype: np.dtype) -> np.dtype | None:
    """The numbers that a dataset holds; None for text, records and references."""
    if dtype.kind in "biufc":
        return dtype
    # HDF5 knows no bfloat16: Keras stores its two bytes as opaque ones.
    return np.dtype(ml_dtypes.bfloat16) if dtype == np.dtype("V2") else None


def _text_attributes(where: str, stored: int, group: h5py.Group) -> dict[str, str | list[str]]:
    texts: dict[str, str | list[str]] = {}
    for name in group.attrs:
        attribute = group.attrs.get_id(name)
        # HDF5 2.0.0 dies on lists whose damaged type is neither text nor a sequence: only what
        # it takes for text itself is read.
        if not isinstance(attribute.get_type(), h5py.h5t.TypeStringID):
            continue
        size = math.prod(attribute.shape) * max(attribute.dtype.itemsize, 1)
        check_expansion(f"{where}, attribute {name!r}", stored, size)
        value = group.attrs[name]
        if isinstance(value, (bytes, str)):
            texts[name] = _text(value)
        elif isinstance(value, np.ndarray) and value.ndim == 1:
            items = value.tolist()
            if all(isinstance(item, (bytes, str)) for item in items):
                texts[name] = [_text(item) for item in items]
    return texts


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class _Bytes(io.RawIOBase):
    """A read-only file over mapped bytes, so that HDF5 reads them without a copy."""

    def __init__(self, data: np.ndarray) -> None:
        self._data = data
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._data.nbytes}
        self._place = start[whence] + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        piece = self._data[self._place : self._place + len(buffer)]
        buffer[: piece.nbytes] = piece.data
        self._place += piece.nbytes
        return int(piece.nbytes)
