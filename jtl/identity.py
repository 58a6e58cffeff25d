"""What a function computes, as a digest: its code and all that it holds, down to the arrays."""

import contextlib
import dataclasses
import enum
import functools
import hashlib
import os
import sys
import time
import types
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Packages that a step may consist of, beside jtl.
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "chex", "numpy", "ml_dtypes")
_KNOWN = frozenset({"jtl", "builtins", "functools", "collections", "types", *_PACKAGES})
# Those of them whose objects are no more than their attributes say; JAX's are partly of C++.
_OPEN = frozenset({"jtl", "flax", "optax", "chex"})
_IMPORTED = time.time_ns()
_PLAIN = (type(None), bool, int, float, complex, str, range, type(Ellipsis))


class UnknownError(Exception):
    """Something is held that no digest tells of."""


def identity(*values: Any) -> str:
    """A digest of functions and values, the same in every process that has the same ones.

    A function is its code, its defaults and what it closes over; an object is its class and its
    attributes. Classes and code are told by the packages that they come from: jtl by its files,
    others by version and by what was edited since they were installed. What a program changed in
    them as it ran is not seen.

    Args:
        *values: functions, arrays, containers, dataclasses, in any depth.

    Returns:
        64 hexadecimal digits.

    Raises:
        UnknownError: a value is of a package, or of a kind, that is not known here.
    """
    return _Digests().of((_code(), values))


@lru_cache
def _code() -> tuple[Any, ...]:
    """What all code that an identity may name is made of."""
    own, root = hashlib.sha256(), Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        if path.stat().st_mtime_ns > _IMPORTED:
            raise UnknownError(f"{path}, which has changed since it was imported")
        text = path.read_bytes()
        own.update(f"{path.relative_to(root)} {len(text)}\n".encode() + text)
    return sys.version, own.hexdigest(), [_package(name) for name in _PACKAGES]


def _package(name: str) -> tuple[Any, ...]:
    """Its version and list of files, with path, size and time of those that are younger."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return (name,)
    root, number = Path(spec.origin).parent, ""
    with contextlib.suppress(PackageNotFoundError):
        number = version(name)
    record = root.parent / f"{name}-{number}.dist-info" / "RECORD"  # what installers write last
    since, listed = 0, ""
    if record.exists():
        since, listed = record.stat().st_mtime_ns, hashlib.sha256(record.read_bytes()).hexdigest()
    edited = []
    for folder, _, names in os.walk(root):
        for path in (f"{folder}/{own}" for own in names if own.endswith((".py", ".so"))):
            about = os.stat(path)  # noqa: PTH116  a path object for each would take as long again
            if about.st_mtime_ns > since:
                edited.append((os.path.relpath(path, root), about.st_size, about.st_mtime_ns))
    return name, number, listed, sorted(edited)


class _Digests:
    """The digests of objects, each made of those of its parts."""

    def __init__(self) -> None:
        self._done: dict[int, str] = {}
        self._open: list[int] = []  # the objects around the one that is looked at
        self._held: list[Any] = []  # so that no other object takes the place of one that is known

    def of(self, value: Any) -> str:
        """The digest of a value."""
        if isinstance(value, _PLAIN):
            return _digest(type(value).__name__, [repr(value)])
        if isinstance(value, bytes):
            own = hashlib.sha256(b"bytes:")
            own.update(value)
            return own.hexdigest()
        if id(value) in self._open:
            return f"inside {len(self._open) - self._open.index(id(value))}"
        if id(value) not in self._done:
            self._open.append(id(value))
            kind, parts = self._parts(value)
            found = _digest(kind, map(self.of, parts))
            self._open.pop()
            self._held.append(value)
            self._done[id(value)] = found
        return self._done[id(value)]

    def _parts(self, value: Any) -> tuple[str, Iterable[Any]]:
        """What kind of object it is, and what it is made of."""
        if (name := _global_name(value)) is not None:
            return "global", (name,)
        match value:
            case types.CodeType():
                names = (value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars)
                return "code", (value.co_code, value.co_flags, *names, value.co_consts)
            case types.FunctionType():
                held = [_contents(cell) for cell in value.__closure__ or ()]
                # Where its names are looked up, which a wrapper's `__module__` does not say.
                code = (_known(value.__globals__.get("__name__"), value), value.__code__)
                own = {name: part for name, part in vars(value).items() if name != "__wrapped__"}
                return "function", (*code, value.__defaults__, value.__kwdefaults__, held, own)
            case types.MethodType():
                return "method", (value.__func__, value.__self__)
            case functools.partial():
                return "partial", (value.func, value.args, value.keywords)
            case jax.Array() | np.ndarray() | np.generic():
                return _parts_of_array(value)
            case np.dtype():
                return "dtype", (str(value),)
            case jax.Device():
                return "device", (value.platform, value.device_kind, value.id)
            case jax.sharding.Mesh():
                kinds = str(value.axis_types)
                return "mesh", (value.devices.shape, [*value.devices.flat], value.axis_names, kinds)
            case jax.sharding.NamedSharding():
                return "sharding", (value.mesh, tuple(value.spec), value.memory_kind)
            case set() | frozenset():
                return "set", sorted(map(self.of, value))
            case dict() | types.MappingProxyType():
                return type(value).__name__, [part for item in value.items() for part in item]
            case list():
                return type(value).__name__, value
            case tuple() if type(value) is tuple:
                return "tuple", value
            case _:
                return _parts_of_object(value)


def _digest(kind: str, parts: Iterable[str]) -> str:
    own = hashlib.sha256()
    for text in (kind, *parts):
        data = text.encode("utf-8", "surrogatepass")
        own.update(f"{len(data)}:".encode() + data)
    return own.hexdigest()


def _parts_of_array(value: Any) -> tuple[str, Iterable[Any]]:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return "key", (str(jax.random.key_impl(value)), jax.random.key_data(value))
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise UnknownError("an array of objects")
    weak = getattr(value, "weak_type", False)
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)  # bfloat16 has no other buffer
    content = hashlib.sha256(data.data).hexdigest()
    return "array", (str(array.dtype), array.shape, weak, content)


def _parts_of_object(value: Any) -> tuple[str, Iterable[Any]]:
    kind = type(value)
    name = f"{_known(kind.__module__, value)}.{kind.__qualname__}"
    if isinstance(value, enum.Enum):
        return name, (value.name,)
    items = list(value) if isinstance(value, tuple) else []
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
        return name, [items, [(own, getattr(value, own, None)) for own in fields]]
    if kind.__module__.partition(".")[0] not in _OPEN or not (items or hasattr(value, "__dict__")):
        raise UnknownError(f"a {name}")
    return name, [items, sorted(getattr(value, "__dict__", {}).items())]


def _known(module: str | None, value: Any) -> str:
    name = module or ""
    if name.partition(".")[0] not in _KNOWN:
        raise UnknownError(f"{value!r} of {name or 'nowhere'}")
    return name


def _global_name(value: Any) -> str | None:
    """The name under which a module has just this object, such as a class or a function."""
    if isinstance(value, types.ModuleType):
        return _known(value.__name__, value)
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{_known(module, value)}.{name}" if found is value else None


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a name that has no value yet
        return ...
