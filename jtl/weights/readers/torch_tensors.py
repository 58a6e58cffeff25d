"""The globals that a torch state dict may name, and stand-ins that make numpy arrays of them."""

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np

from jtl.errors import WeightsError
from jtl.weights.readers.mapped import array_at

_STORAGES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
    "ComplexFloatStorage": np.dtype("<c8"),
    "ComplexDoubleStorage": np.dtype("<c16"),
}

_DTYPES: dict[str, np.dtype] = {
    "float64": np.dtype("<f8"),
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e8m0fnu": np.dtype(ml_dtypes.float8_e8m0fnu),
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "int16": np.dtype("<i2"),
    "int8": np.dtype("i1"),
    "uint64": np.dtype("<u8"),
    "uint32": np.dtype("<u4"),
    "uint16": np.dtype("<u2"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
    "complex64": np.dtype("<c8"),
    "complex128": np.dtype("<c16"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StorageType:
    """A torch storage class by name; `dtype` is None for one of bare bytes."""

    name: str
    dtype: np.dtype | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Storage:
    """The bytes that tensors are views of.

    Attributes:
        where: the file and the storage's key, for messages.
        data: little-endian, uint8 `[bytes]`.
        dtype: the element type, or None where each tensor names its own.
    """

    where: str
    data: np.ndarray
    dtype: np.dtype | None


def allowed_globals() -> dict[str, Any]:
    """Every global that a state dict may name, with our stand-in for it."""
    storages = {
        f"torch.{name}": StorageType(name=name, dtype=dtype) for name, dtype in _STORAGES.items()
    }
    untyped = StorageType(name="UntypedStorage", dtype=None)
    return {
        **storages,
        "torch.UntypedStorage": untyped,
        "torch.storage.UntypedStorage": untyped,
        **{f"torch.{name}": dtype for name, dtype in _DTYPES.items()},
        "collections.OrderedDict": _ordered_dict,
        "torch._utils._rebuild_tensor": _rebuild_tensor,
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
        "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
        "torch.Size": tuple,
        "torch.device": _device,
    }


def storage_type(value: Any) -> StorageType:
    """Checks that a persistent id names a storage class.

    Raises:
        TypeError: it names something else.
    """
    if not isinstance(value, StorageType):
        raise TypeError(f"a storage of type {type(value).__name__}")
    return value


def little_endian(data: np.ndarray, dtype: np.dtype | None, where: str) -> np.ndarray:
    """A big-endian storage's bytes in the order in which this machine reads them.

    Args:
        data: uint8 `[bytes]`.
        dtype: the storage's element type.
        where: the file and the storage, for the message.

    Raises:
        WeightsError: the storage does not say how wide its elements are.
    """
    if dtype is None:
        raise WeightsError(
            f"{where}: big-endian bytes without an element type; save the state dict again on a "
            "little-endian machine."
        )
    width = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    if data.nbytes % width:
        raise WeightsError(f"{where}: {data.nbytes} bytes are no whole number of {dtype}.")
    return data.reshape(-1, width)[:, ::-1].reshape(-1)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    if not isinstance(storage, Storage) or storage.dtype is None:
        raise TypeError("a tensor without a typed storage")
    return _view(storage, storage.dtype, offset, size, stride)


def _rebuild_tensor_v3(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    _requires_grad: Any,
    _hooks: Any,
    dtype: Any,
    *_: Any,
) -> np.ndarray:
    if not isinstance(storage, Storage) or not isinstance(dtype, np.dtype):
        raise TypeError("a tensor without a storage or an element type")
    return _view(storage, dtype, offset, size, stride)


def _view(storage: Storage, dtype: np.dtype, offset: Any, size: Any, stride: Any) -> np.ndarray:
    """`offset` and `stride` count elements, as torch does."""
    numbers = (offset, *size, *stride)
    if not all(isinstance(n, int) and abs(n) < 2**62 for n in numbers) or len(size) > 64:
        raise TypeError("a tensor whose sizes are not whole numbers of a sensible size")
    return array_at(
        storage.data,
        dtype=dtype,
        shape=tuple(size),
        offset=offset * dtype.itemsize,
        strides=tuple(step * dtype.itemsize for step in stride),
        where=storage.where,
    )


def _rebuild_parameter(data: Any, *_: Any) -> np.ndarray:
    if not isinstance(data, np.ndarray):
        raise TypeError("a parameter that is no tensor")
    return data


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    return dict(items)


def _device(*arguments: Any) -> str:
    return ":".join(str(argument) for argument in arguments)
