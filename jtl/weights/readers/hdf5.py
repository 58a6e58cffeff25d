"""Walks an HDF5 file held in bytes: plain arrays and text attributes, nothing outside the bytes."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from jtl.errors import WeightsError
from jtl.weights.readers.hdf5_guard import check_structure
from jtl.weights.readers.hdf5_values import element_type, read_values
from jtl.weights.readers.weight_file import check_expansion

# What Keras writes and the reader of its layouts asks for; any other attribute stays unread.
_WANTED = re.compile(r"(layer_names|weight_names)\d*|name|model_config|keras_version|backend")
_MOST_OBJECTS = 200_000
_DEEPEST = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hdf5Content:
    """What an HDF5 file holds.

    Attributes:
        arrays: by path without a leading slash; views of the file's bytes where it stores them
            plainly.
        attributes: those of Keras that are text or lists of it, by the path of their group (`""`
            is the root).
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
    check_structure(where, data)
    try:
        with _open(data) as file:
            return _read_content(where, data, file)
    except WeightsError:
        raise
    # h5py turns each failed check of the HDF5 library into whichever exception it finds nearest.
    except Exception as error:
        text = " ".join(str(error).split())
        raise WeightsError(
            f"{where}: is damaged as an HDF5 file ({text}); fetch or save it again."
        ) from error


def _open(data: np.ndarray) -> h5py.File:
    """The bytes as a file of their own, which HDF5 copies for as long as it is open.

    HDF5 knows a file on disk by its inode: were damage to keep one from closing, it would be
    taken for the next one there.
    """
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fapl_core(backing_store=False)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_file_image(data.data)
    return h5py.File(h5py.h5f.open(b"weights in memory", h5py.h5f.ACC_RDONLY, access))


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
        if dataset.shape is not None and element_type(dataset.dtype) is not None:
            arrays[path] = read_values(f"{where}: dataset {path!r}", data, dataset)
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


def _text_attributes(where: str, stored: int, group: h5py.Group) -> dict[str, str | list[str]]:
    texts: dict[str, str | list[str]] = {}
    for name in group.attrs:
        if not _WANTED.fullmatch(name):
            continue
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
