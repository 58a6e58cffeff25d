"""Reads the zip files that torch.save has written since torch 1.6, without torch or its pickle."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np

from jtl.errors import WeightsError
from jtl.weights.readers.archive import Archive, open_archive
from jtl.weights.readers.names import flatten_entries, open_wrapper
from jtl.weights.readers.pickled import interpret
from jtl.weights.readers.torch_tensors import (
    Storage,
    allowed_globals,
    little_endian,
    storage_type,
)
from jtl.weights.readers.weight_file import WeightFile


def read_torch_zip(path: Path, entry: str | None = None) -> WeightFile:
    """Every tensor of a torch file's state dict, as views of the mapped file.

    Args:
        path: the file.
        entry: which part of a training checkpoint to open, such as `state_dict_ema`.

    Raises:
        WeightsError: the file is damaged, its pickle names anything but tensors and dicts, or
            it holds no state dict.
    """
    archive = open_archive(path)
    root = _root(archive)
    reader = _StorageReader(archive=archive, root=root, big_endian=_is_big_endian(archive, root))
    pickle = io.BytesIO(archive.read(f"{root}data.pkl").tobytes())
    content = interpret(str(path), pickle, allowed_globals(), reader.load)
    tree, notes = open_wrapper(str(path), content, entry)
    if not archive.has_checksums:
        notes += ("the file has no checksums, so that damage to its data cannot be seen",)
    return WeightFile(
        path=str(path),
        format="torch",
        tensors=flatten_entries(str(path), tree, "."),
        notes=notes,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _StorageReader:
    """Makes a storage from a persistent id, each from the archive only once."""

    archive: Archive
    root: str
    big_endian: bool
    loaded: dict[tuple[str, str], Storage] = dataclasses.field(default_factory=dict)

    def load(self, key: Any) -> Storage:
        label, kind, name, _, count = key
        dtype = storage_type(kind).dtype
        if label != "storage" or not isinstance(name, str) or not isinstance(count, int):
            raise TypeError("a persistent id that is no storage")
        member = f"{self.root}data/{name}"
        if (name, kind.name) not in self.loaded:
            self.loaded[name, kind.name] = self._read(member, dtype)
        storage = self.loaded[name, kind.name]
        wanted = count * (1 if dtype is None else dtype.itemsize)
        if storage.data.nbytes < wanted:
            raise WeightsError(
                f"{storage.where}: holds {storage.data.nbytes:,} bytes where {wanted:,} are "
                "claimed; the file is truncated or damaged, fetch or save it again."
            )
        return storage

    def _read(self, member: str, dtype: np.dtype | None) -> Storage:
        where = f"{self.archive.path}: storage {member!r}"
        if member not in self.archive.members:
            raise WeightsError(f"{where}: is missing from the zip; fetch or save the file again.")
        data = self.archive.read(member)
        if self.big_endian:
            data = little_endian(data, dtype, where)
        return Storage(where=where, data=data, dtype=dtype)


def _root(archive: Archive) -> str:
    """The folder within the zip that holds `data.pkl`, with its slash."""
    roots = [name[: -len("data.pkl")] for name in archive.members if name.endswith("data.pkl")]
    if len(roots) != 1:
        raise WeightsError(
            f"{archive.path}: holds {len(roots)} data.pkl where a torch file holds one; "
            "fetch or save it again."
        )
    if any(name.startswith(f"{roots[0]}code/") for name in archive.members):
        raise WeightsError(
            f"{archive.path}: is a TorchScript program, which is code; load it in torch where you "
            "trust it and save its state_dict() alone."
        )
    return roots[0]


def _is_big_endian(archive: Archive, root: str) -> bool:
    member = f"{root}byteorder"
    return member in archive.members and archive.read(member).tobytes() == b"big"
