"""The parts of an ONNX file that weights need: its nodes in order and its tensors as views."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

import ml_dtypes
import numpy as np

from jtl.errors import WeightsError
from jtl.weights.readers.mapped import array_at, map_file
from jtl.weights.readers.protobuf import fields, packed_integers, signed

# Field numbers and element types as onnx/onnx.proto (IR version 10) gives them.
_MODEL = {"producer_name": 2, "producer_version": 3, "graph": 7}
_GRAPH = {"node": 1, "initializer": 5, "sparse_initializer": 15}
_NODE = {"input": 1, "output": 2, "name": 3, "op_type": 4, "attribute": 5}
_ATTRIBUTE = {"name": 1, "i": 3, "t": 5}
_TENSOR = {
    "dims": 1,
    "data_type": 2,
    "float_data": 4,
    "int32_data": 5,
    "int64_data": 7,
    "name": 8,
    "raw_data": 9,
    "double_data": 10,
    "uint64_data": 11,
    "external_data": 13,
    "data_location": 14,
}
_DTYPES: dict[int, np.dtype] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    4: np.dtype("<u2"),
    5: np.dtype("<i2"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("?"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    12: np.dtype("<u4"),
    13: np.dtype("<u8"),
    14: np.dtype("<c8"),
    15: np.dtype("<c16"),
    16: np.dtype(ml_dtypes.bfloat16),
    17: np.dtype(ml_dtypes.float8_e4m3fn),
    19: np.dtype(ml_dtypes.float8_e5m2),
}
_EXTERNAL = 1
# ResNet-152 has 500 nodes; each costs a few hundred bytes once parsed.
_MOST_PARTS = 100_000

Message = dict[str, list[int | memoryview]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """One operation: its kind, its name and the names of what it reads and writes."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integers: Mapping[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
    """An ONNX graph's operations in order, and its constant tensors by name.

    Attributes:
        nodes: in the file's order, which ONNX requires to be an order of execution.
        tensors: initialisers and the values of Constant nodes, as views.
        stored: the bytes of the file and of those beside it that its tensors lie in.
        producer: what wrote the file, such as `pytorch 2.13.0`.
    """

    nodes: tuple[Node, ...]
    tensors: Mapping[str, np.ndarray]
    stored: int
    producer: str


def looks_like_onnx(head: bytes) -> bool:
    """Whether the first bytes are a ModelProto's `ir_version` and a field that follows it."""
    return len(head) > 2 and head[0] == 0x08 and 1 <= head[1] < 0x40 and head[2] in _AFTER_VERSION


# Length-delimited fields 2 to 8, 14, 20 and 25, and the version of the model.
_AFTER_VERSION = frozenset(b"\x12\x1a\x22\x28\x32\x3a\x42\x72")


def read_graph(path: Path) -> Graph:
    """Parses an ONNX file; tensors are views of it, or of files in its folder.

    Raises:
        WeightsError: the file is damaged, or its data lies outside its folder.
    """
    data = map_file(path)
    try:
        model = _message(data.data, _MODEL)
        graph = _message(_only(model, "graph"), _GRAPH)
        producer = f"{_text(model, 'producer_name')} {_text(model, 'producer_version')}".strip()
        if len(graph["node"]) + len(graph["initializer"]) > _MOST_PARTS:
            raise ValueError("more nodes and tensors than weights have")
        nodes = tuple(_node(part) for part in graph["node"])
        constants = [
            (node.outputs[0], tensor)
            for node, part in zip(nodes, graph["node"])
            if node.kind == "Constant" and node.outputs and (tensor := _constant(part)) is not None
        ]
        named = [(_text(t, "name"), t) for t in map(_tensor, graph["initializer"])]
    except (ValueError, TypeError) as error:
        raise WeightsError(
            f"{path}: is damaged as an ONNX file ({error}); fetch or export it again."
        ) from error
    if graph["sparse_initializer"]:
        raise WeightsError(f"{path}: has sparse tensors, which are not read; export dense ones.")
    outside = _Outside(path=path)
    tensors = {}
    for name, message in (*named, *constants):
        tensors[name] = _array(f"{path}: tensor {name!r}", message, outside)
    return Graph(
        nodes=nodes,
        tensors=tensors,
        stored=data.nbytes + sum(file.nbytes for file in outside.files.values()),
        producer=producer,
    )


def _message(part: int | memoryview, known: Mapping[str, int]) -> Message:
    if not isinstance(part, memoryview):
        raise TypeError("a number where a message should be")
    names = {number: name for name, number in known.items()}
    found: Message = {name: [] for name in known}
    for number, value in fields(part):
        if number in names:
            found[names[number]].append(value)
    return found


def _only(message: Message, name: str) -> int | memoryview:
    if len(message[name]) != 1:
        raise ValueError(f"{len(message[name])} fields {name} where there should be one")
    return message[name][0]


def _text(message: Message, name: str) -> str:
    return _as_text(message[name][-1]) if message[name] else ""


def _as_text(value: int | memoryview) -> str:
    if not isinstance(value, memoryview):
        raise TypeError("a number where text should be")
    return bytes(value).decode()


def _node(part: int | memoryview) -> Node:
    node = _message(part, _NODE)
    attributes = [_message(attribute, _ATTRIBUTE) for attribute in node["attribute"]]
    return Node(
        kind=_text(node, "op_type"),
        name=_text(node, "name"),
        inputs=tuple(_as_text(value) for value in node["input"]),
        outputs=tuple(_as_text(value) for value in node["output"]),
        integers={
            _text(attribute, "name"): signed(value)
            for attribute in attributes
            for value in attribute["i"]
            if isinstance(value, int)
        },
    )


def _constant(part: int | memoryview) -> Message | None:
    """The tensor of a Constant node, None where it holds a bare number or text."""
    for attribute in _message(part, _NODE)["attribute"]:
        message = _message(attribute, _ATTRIBUTE)
        if _text(message, "name") == "value" and message["t"]:
            return _tensor(message["t"][-1])
    return None


def _tensor(part: int | memoryview) -> Message:
    return _message(part, _TENSOR)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Outside:
    """The files beside an ONNX file that hold its tensors, each mapped once."""

    path: Path
    files: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def open(self, where: str, location: str) -> np.ndarray:
        if location not in self.files:
            folder = self.path.parent.resolve()
            target = (folder / location).resolve()
            climbs = ".." in PurePosixPath(location.replace("\\", "/")).parts
            rooted = PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive
            if climbs or rooted or not location or not target.is_relative_to(folder):
                raise WeightsError(
                    f"{where} lies in {location!r}, outside the folder of its ONNX file; nothing "
                    "there was read. Put the data beside the file and export again."
                )
            if not target.is_file():
                raise WeightsError(f"{where} lies in {location!r}, which is missing beside it.")
            self.files[location] = map_file(target)
        return self.files[location]


def _array(where: str, tensor: Message, outside: _Outside) -> np.ndarray:
    try:
        shape = _shape(tensor)
        number = tensor["data_type"][-1] if tensor["data_type"] else 0
        dtype = _DTYPES.get(number) if isinstance(number, int) else None
        if dtype is None:
            # Text and 4-bit integers: never weights of a network that is read here.
            return np.zeros((0,), np.uint8)
        if tensor["data_location"] and tensor["data_location"][-1] == _EXTERNAL:
            return _external(where, tensor, dtype, shape, outside)
        data, stored = _inline(tensor, dtype)
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{where} is damaged ({error}); fetch or export it again.") from error
    array = array_at(data, dtype=stored, shape=shape, offset=0, where=where)
    if array.nbytes != data.nbytes:
        raise WeightsError(
            f"{where} is {dtype}{list(shape)} of {array.nbytes:,} bytes but holds "
            f"{data.nbytes:,}; fetch or export the file again."
        )
    return array


def _shape(tensor: Message) -> tuple[int, ...]:
    sizes: list[int] = []
    for value in tensor["dims"]:
        sizes += [signed(value)] if isinstance(value, int) else packed_integers(value).tolist()
    if len(sizes) > 16:
        raise ValueError(f"{len(sizes)} dimensions")
    return tuple(sizes)


def _inline(tensor: Message, dtype: np.dtype) -> tuple[np.ndarray, np.dtype]:
    """The tensor's bytes, uint8 `[bytes]`, and the type that they are to be viewed as."""
    if tensor["raw_data"]:
        return _bytes(tensor["raw_data"][-1]), dtype
    for name in ("float_data", "double_data"):
        if tensor[name]:
            pieces = [_bytes(piece) for piece in tensor[name]]
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces), dtype
    for name in ("int32_data", "int64_data", "uint64_data"):
        if tensor[name]:
            values = [
                np.array([signed(value)]) if isinstance(value, int) else packed_integers(value)
                for value in tensor[name]
            ]
            return np.concatenate(values).astype(_carrier(dtype)).view(np.uint8), dtype
    return np.zeros(0, np.uint8), dtype


def _bytes(value: int | memoryview) -> np.ndarray:
    if not isinstance(value, memoryview):
        raise TypeError("a number where data should be")
    return np.frombuffer(value, np.uint8)


def _carrier(dtype: np.dtype) -> np.dtype:
    """The integer type whose bits are this type's: 16-bit floats travel as their bits."""
    return dtype if dtype.kind in "biu" else np.dtype(f"<u{dtype.itemsize}")


def _external(
    where: str, tensor: Message, dtype: np.dtype, shape: tuple[int, ...], outside: _Outside
) -> np.ndarray:
    entries = {}
    for part in tensor["external_data"]:
        pair = _message(part, {"key": 1, "value": 2})
        entries[_text(pair, "key")] = _text(pair, "value")
    data = outside.open(where, entries.get("location", ""))
    offset = int(entries.get("offset", "0"))
    array = array_at(data, dtype=dtype, shape=shape, offset=offset, where=where)
    if "length" in entries and int(entries["length"]) != array.nbytes:
        raise ValueError(f"{entries['length']} bytes for {dtype}{list(shape)}")
    return array
