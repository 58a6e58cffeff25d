"""Reads the files that torch.save wrote before 1.6, such as torchvision's first VGG weights."""

import dataclasses
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np

from jtl.errors import WeightsError
from jtl.weights.readers.mapped import map_file
from jtl.weights.readers.names import flatten_entries, open_wrapper
from jtl.weights.readers.pickled import interpret
from jtl.weights.readers.torch_tensors import Storage, allowed_globals, storage_type
from jtl.weights.readers.weight_file import WeightFile

# torch/serialization.py: MAGIC_NUMBER and PROTOCOL_VERSION, each pickled by itself.
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
HEAD = b"\x80\x02\x8a\x0a" + _MAGIC.to_bytes(10, "little")
# The four pickles in front of the data; ResNet-152's take 150 kB.
_LONGEST_PICKLES = 32 * 2**20
_COUNT = struct.Struct("<q")


def read_torch_legacy(path: Path, entry: str | None = None) -> WeightFile:
    """Every tensor of a state dict in torch's old format, as views of the mapped file.

    The file is a row of pickles (magic number, version, machine, object, storage keys) and then
    each storage's bytes behind its element count.

    Args:
        path: the file.
        entry: which part of a training checkpoint to open, such as `state_dict_ema`.

    Raises:
        WeightsError: the file is damaged, its pickle names anything but tensors and dicts, or
            it holds no state dict.
    """
    data = map_file(path)
    where = str(path)
    head = io.BytesIO(data[:_LONGEST_PICKLES].tobytes())
    versions = [interpret(where, head, {}, _refuse) for _ in range(2)]
    machine = interpret(where, head, {}, _refuse)
    if versions != [_MAGIC, _PROTOCOL] or not isinstance(machine, dict):
        raise WeightsError(f"{where}: is no torch file of a known version; save it again.")
    if machine.get("little_endian") is not True:
        raise WeightsError(
            f"{where}: was written on a big-endian machine in torch's old format; save it again "
            "with torch 1.6 or later."
        )
    # The storages' places follow only behind their keys: a first pass learns their sizes.
    start = head.tell()
    sizes = _Sizes(where=where, total=data.nbytes)
    interpret(where, head, _measuring_globals(), sizes.note)
    keys = interpret(where, head, {}, _refuse)
    storages = _locate(where, sizes.found, keys, data, head.tell())
    head.seek(start)
    content = interpret(where, head, allowed_globals(), lambda key: storages[key[2]])
    tree, notes = open_wrapper(where, content, entry)
    return WeightFile(
        path=where, format="torch", tensors=flatten_entries(where, tree, "."), notes=notes
    )


def _refuse(_: Any) -> Any:
    raise TypeError("a storage outside the state dict")


def _measuring_globals() -> dict[str, Any]:
    """What a state dict may name, but every tensor comes out as a number."""
    return {
        name: (lambda *_: 0) if name.startswith("torch._utils.") else value
        for name, value in allowed_globals().items()
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Sizes:
    """Collects each storage's element type and count from its persistent ids."""

    where: str
    total: int
    found: dict[str, tuple[np.dtype, int]] = dataclasses.field(default_factory=dict)

    def note(self, key: Any) -> None:
        label, kind, name, _, count, view = key
        dtype = storage_type(kind).dtype
        if label != "storage" or view is not None or dtype is None or not isinstance(name, str):
            raise TypeError("a persistent id that is no storage")
        if not isinstance(count, int) or not 0 <= count <= self.total:
            raise ValueError(f"a storage of {count} elements in {self.total:,} bytes")
        if self.found.setdefault(name, (dtype, count)) != (dtype, count):
            raise ValueError(f"two sizes for the storage {name!r}")


def _locate(
    where: str, sizes: dict[str, tuple[np.dtype, int]], keys: Any, data: np.ndarray, place: int
) -> dict[str, Storage]:
    """Each storage as a view of the file, in the order in which `keys` lists them."""
    listed = isinstance(keys, list) and all(isinstance(name, str) for name in keys)
    if not listed or sorted(keys) != sorted(sizes):
        raise WeightsError(
            f"{where}: lists other storages than its tensors use; fetch or save it again."
        )
    storages = {}
    for name in keys:
        dtype, count = sizes[name]
        end = place + _COUNT.size + count * dtype.itemsize
        if end > data.nbytes:
            raise WeightsError(f"{where}: ends within storage {name!r}; fetch it again.")
        if _COUNT.unpack_from(data.data, place)[0] != count:
            raise WeightsError(
                f"{where}: storage {name!r} has another size than its tensors say; "
                "fetch or save it again."
            )
        storages[name] = Storage(
            where=f"{where}: storage {name!r}", data=data[place + _COUNT.size : end], dtype=dtype
        )
        place = end
    return storages
