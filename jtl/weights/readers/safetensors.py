"""Reads safetensors files: a JSON header and plain bytes, all of which it checks itself."""

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jtl.errors import WeightsError
from jtl.weights.readers.mapped import array_at, map_file
from jtl.weights.readers.weight_file import WeightFile

# The format allows 100 MB; 100,000 tensors need 16 MiB, and parsed JSON is many times larger.
_LONGEST_HEADER = 16 * 2**20
_PREFIX = 8

_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "C64": np.dtype("<c8"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


def looks_like_safetensors(head: bytes, size: int) -> bool:
    """Whether the first bytes are a header length that fits the file, and a JSON object."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size


def read_safetensors(path: Path) -> WeightFile:
    """Every tensor as a view of the mapped file; names as the file has them.

    Raises:
        WeightsError: the header is damaged, or its tensors overlap, leave gaps or reach beyond
            the file.
    """
    data = map_file(path)
    start, header = _read_header(path, data)
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _damaged(path, "its __metadata__ is not text by name")
    body = data[start:]
    spans: list[tuple[int, int, str]] = []
    tensors = {}
    for name, entry in header.items():
        dtype, shape, begin, end = _parse_entry(path, name, entry)
        where = f"{path}: tensor {name!r}"
        tensors[name] = array_at(body, dtype=dtype, shape=shape, offset=begin, where=where)
        spans.append((begin, end, name))
    _check_spans(path, spans, body.nbytes)
    return WeightFile(path=str(path), format="safetensors", tensors=tensors, metadata=metadata)


def _read_header(path: Path, data: np.ndarray) -> tuple[int, dict[str, Any]]:
    length = int.from_bytes(data[:_PREFIX].tobytes(), "little")
    if data.nbytes < _PREFIX or length > min(data.nbytes - _PREFIX, _LONGEST_HEADER):
        raise _damaged(
            path,
            f"its header claims {length:,} bytes of a file of {data.nbytes:,} "
            f"(and at most {_LONGEST_HEADER:,} are read)",
        )
    text = data[_PREFIX : _PREFIX + length].tobytes()
    try:
        header = json.loads(text.decode(), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not valid JSON ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    return _PREFIX + length, header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        twice = (
            sorted({name for name in names if names.count(name) > 1}) if len(pairs) < 500 else []
        )
        raise ValueError(f"names given twice: {', '.join(twice) or 'several'}")
    return entries


def _parse_entry(path: Path, name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    where = f"tensor {name!r}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise _damaged(path, f"{where} lacks dtype, shape or data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in _DTYPES:
        known = ", ".join(sorted(_DTYPES))
        raise WeightsError(
            f"{path}: {where} has the element type {kind!r}; readable are {known}. "
            "Save it again as one of them."
        )
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise _damaged(path, f"{where} has the shape {shape!r} and the offsets {offsets!r}")
    size = math.prod(shape) * _DTYPES[kind].itemsize
    begin, end = offsets
    if end - begin != size:
        raise _damaged(path, f"{where} is {kind}{shape} of {size:,} bytes in {end - begin:,}")
    return _DTYPES[kind], tuple(shape), begin, end


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
        for value in values
    )


def _check_spans(path: Path, spans: list[tuple[int, int, str]], size: int) -> None:
    """The tensors must tile the data: no overlap, no gap, no bytes left over."""
    problems, place, before = [], 0, "the header"
    for begin, end, name in sorted(spans):
        if begin != place:
            kind = "overlap" if begin < place else "leave a gap"
            problems.append(f"{before!r} and {name!r} {kind} at byte {begin:,}")
        place, before = max(place, end), name
    if place != size:
        problems.append(f"{size - place:,} bytes of data belong to no tensor")
    if problems:
        raise _damaged(path, "; ".join(problems[:20]))


def _damaged(path: Path, found: str) -> WeightsError:
    return WeightsError(f"{path}: {found}; the file is damaged, fetch or save it again.")
