"""Reads the msgpack files that Flax's serialization writes."""

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack  # type: ignore[import-untyped]
import numpy as np

from jtl.errors import WeightsError
from jtl.weights.readers.mapped import map_file
from jtl.weights.readers.names import flatten_entries, open_collections
from jtl.weights.readers.weight_file import WeightFile

# Flax's own extension codes (flax/serialization.py): an array, a complex number, a numpy scalar.
_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
# Flax writes every list as a map: only shapes are arrays, so that none is long.
_LONGEST_ARRAY = 64
_LONGEST_MAP = 1_000_000
# fmt: off
_DTYPES = frozenset({
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "complex64", "complex128",
    "bfloat16", "float8_e4m3fn", "float8_e5m2",
})
# fmt: on
_CHUNKED = "__msgpack_chunked_array__"


def looks_like_msgpack(head: bytes) -> bool:
    """Whether the first bytes are a msgpack map with a text key, as every Flax file is."""
    first = head[0] if head else 0
    if not (0x81 <= first <= 0x8F or first in (0xDE, 0xDF)):
        return False
    key = head[{0xDE: 3, 0xDF: 5}.get(first, 1) :][:1]
    return b"\xa0" <= key <= b"\xbf" or key in (b"\xd9", b"\xda", b"\xdb")


def read_msgpack(path: Path, entry: str | None = None) -> WeightFile:
    """Every array under its slash path, in one copy of the file's bytes.

    Args:
        path: the file.
        entry: which part of a training state to open, such as `ema`.

    Raises:
        WeightsError: the file is damaged or holds objects that Flax does not write.
    """
    data = map_file(path)
    try:
        content = msgpack.unpackb(
            data.data,
            ext_hook=_unpack_extension,
            raw=False,
            max_array_len=_LONGEST_ARRAY,
            max_map_len=_LONGEST_MAP,
        )
        content = _join_chunks(content)
    except (ValueError, TypeError, KeyError, msgpack.UnpackException, RecursionError) as error:
        raise WeightsError(
            f"{path}: is no Flax msgpack file or is damaged ({type(error).__name__}: {error}); "
            "fetch or save it again."
        ) from error
    tree, notes = open_collections(str(path), content, entry)
    tensors = flatten_entries(str(path), tree, "/")
    return WeightFile(path=str(path), format="msgpack", tensors=tensors, notes=notes)


def _unpack_extension(code: int, data: bytes) -> Any:
    if code == _COMPLEX:
        return complex(*msgpack.unpackb(data))
    if code not in (_ARRAY, _SCALAR):
        raise ValueError(f"an object of the unknown kind {code}")
    shape, kind, content = msgpack.unpackb(data, max_array_len=_LONGEST_ARRAY)
    dtype = _dtype(kind)
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"{kind}{list(shape)} in {len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(shape)


def _dtype(kind: str) -> np.dtype:
    if kind not in _DTYPES:
        raise ValueError(f"the element type {kind!r}")
    return np.dtype(getattr(ml_dtypes, kind, kind))


def _join_chunks(node: Any) -> Any:
    """Arrays beyond 1 GiB lie in flat pieces: `{marker, shape: {"0": n}, chunks: {"0": array}}`."""
    if not isinstance(node, dict):
        return node
    if _CHUNKED not in node:
        return {name: _join_chunks(value) for name, value in node.items()}
    shape = tuple(node["shape"][str(axis)] for axis in range(len(node["shape"])))
    chunks = [node["chunks"][str(place)] for place in range(len(node["chunks"]))]
    return np.concatenate([chunk.reshape(-1) for chunk in chunks]).reshape(shape)
