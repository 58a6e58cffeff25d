"""Small weight files of every format, honest and hostile, mostly made without their libraries."""

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import flax.serialization
import numpy as np
import orbax.checkpoint as ocp
from safetensors.numpy import save_file

DATA = Path(__file__).parent / "data"

# One file of each format that fits in the repository; their tensors hold k + i/8 (see data/).
GOLDEN = (
    "torch-plain.pth",
    "torch-legacy.pth",
    "torch-folded.onnx",
    "torch-separate.onnx",
    "keras-net.h5",
    "keras-net.weights.h5",
    "keras-net.keras",
)

# The state dict in data/torch-*, in its own order.
TORCH_SHAPES = {
    "conv1.weight": (4, 3, 3, 3),
    "bn1.weight": (4,),
    "bn1.bias": (4,),
    "bn1.running_mean": (4,),
    "bn1.running_var": (4,),
    "bn1.num_batches_tracked": (),
    "layer1.0.conv.weight": (4, 4, 3, 3),
    "layer1.0.bn.weight": (4,),
    "layer1.0.bn.bias": (4,),
    "layer1.0.bn.running_mean": (4,),
    "layer1.0.bn.running_var": (4,),
    "layer1.0.bn.num_batches_tracked": (),
    "layer1.1.conv.weight": (4, 4, 3, 3),
    "layer1.1.bn.weight": (4,),
    "layer1.1.bn.bias": (4,),
    "layer1.1.bn.running_mean": (4,),
    "layer1.1.bn.running_var": (4,),
    "layer1.1.bn.num_batches_tracked": (),
    "fc.weight": (5, 4),
    "fc.bias": (5,),
}

# The variables of the net in data/keras-*, in Keras' own order.
KERAS_SHAPES = {
    "conv1_conv/kernel": (3, 3, 3, 4),
    "conv1_conv/bias": (4,),
    "conv1_bn/gamma": (4,),
    "conv1_bn/beta": (4,),
    "conv1_bn/moving_mean": (4,),
    "conv1_bn/moving_variance": (4,),
    "conv2d/kernel": (3, 3, 4, 4),
    "batch_normalization/beta": (4,),
    "batch_normalization/moving_mean": (4,),
    "batch_normalization/moving_variance": (4,),
    "conv2d_1/kernel": (3, 3, 4, 2),
    "batch_normalization_1/gamma": (2,),
    "batch_normalization_1/moving_mean": (2,),
    "batch_normalization_1/moving_variance": (2,),
    "predictions/kernel": (2, 5),
    "predictions/bias": (5,),
}


# What the files made here hold.
ARRAYS = {
    "conv1.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "bn1.bias": np.arange(3, dtype=np.float16),
}


def ruled(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Tensor number k holds k + i/8 at its flat place i; torch's counters hold whole numbers."""
    tensors = {}
    for k, (name, shape) in enumerate(shapes.items()):
        values = (k + np.arange(np.prod(shape, dtype=int)) / 8).reshape(shape)
        dtype = np.int64 if name.endswith("num_batches_tracked") else np.float32
        tensors[name] = values.astype(dtype)
    return tensors


def assert_same(actual, expected):
    """Names, element types, shapes and every bit agree."""
    assert sorted(actual) == sorted(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        np.testing.assert_array_equal(actual[name], tensor, err_msg=name)


def safetensors(header: dict | bytes, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


class Named:
    """Pickles as a call of a global that need not exist here: `Named("torch", "f", 1)`."""

    def __init__(self, module: str, name: str, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


class Reference:
    """Pickles as a bare global."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name


class Storage:
    """Pickles as torch's persistent id of a storage."""

    def __init__(self, kind: str, key: str, count: int):
        self.kind, self.key, self.count = kind, key, count


def tensor(storage: Storage, shape, strides, offset=0):
    return Named("torch._utils", "_rebuild_tensor_v2", storage, offset, shape, strides, False, {})


def torch_pickle(content) -> bytes:
    """Protocol 2 by hand, as torch.save writes it: globals by name, storages by persistent id."""
    return b"\x80\x02" + _opcodes(content) + b"."


def _opcodes(value) -> bytes:
    if isinstance(value, Reference):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Named):
        return _opcodes(Reference(value.module, value.name)) + _opcodes(value.arguments) + b"R"
    if isinstance(value, Storage):
        kind = Reference("torch", value.kind)
        return _opcodes(("storage", kind, value.key, "cpu", value.count)) + b"Q"
    if isinstance(value, dict):
        items = b"".join(_opcodes(k) + _opcodes(v) for k, v in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_opcodes, value)) + b"t"
    return pickle.dumps(value, 2)[2:-1]


def torch_zip(path: Path, content, storages: dict[str, bytes], byteorder="little") -> Path:
    with zipfile.ZipFile(path, "w") as file:
        pickled = content if isinstance(content, bytes) else torch_pickle(content)
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", byteorder)
        for key, data in storages.items():
            file.writestr(f"archive/data/{key}", data)
    return path


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def field(number: int, value: int | bytes | str) -> bytes:
    """One protobuf field: an integer as a varint, anything else behind its length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def onnx_tensor(name: str, shape, raw: bytes | None, external: dict | None = None, kind=1):
    parts = [field(1, n) for n in shape] + [field(2, kind), field(8, name)]
    if raw is not None:
        parts.append(field(9, raw))
    for key, value in (external or {}).items():
        parts.append(field(13, field(1, key) + field(2, value)))
    return b"".join(parts) + (field(14, 1) if external else b"")


def onnx_node(kind: str, inputs, name="", integers: dict | None = None, outputs=("y",)):
    parts = [field(1, one) for one in inputs] + [field(2, one) for one in outputs]
    parts += [field(3, name), field(4, kind)]
    parts += [field(5, field(1, k) + field(3, v)) for k, v in (integers or {}).items()]
    return b"".join(parts)


def onnx_model(nodes, tensors) -> bytes:
    graph = b"".join([*(field(1, n) for n in nodes), *(field(5, t) for t in tensors)])
    return field(1, 8) + field(2, "samples") + field(7, graph)


def npy(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def zipped(path: Path, members: dict[str, bytes], compression=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def save_orbax(folder, **options):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
        checkpointer.save(folder, ocp.args.PyTreeSave({"params": ARRAYS}))
    return folder


def small_files(folder: Path) -> list[Path]:
    """One honest file of each format."""
    save_file(ARRAYS, folder / "a.safetensors")
    np.savez(folder / "a.npz", **ARRAYS)
    np.savez_compressed(folder / "b.npz", **ARRAYS)
    (folder / "a.msgpack").write_bytes(flax.serialization.msgpack_serialize({"params": ARRAYS}))
    for name in GOLDEN:
        (folder / name).write_bytes((DATA / name).read_bytes())
    return sorted(folder.iterdir())
