"""A placement whose compiled steps are kept on disk; otherwise it is the one that it stands for."""

import contextlib
import dataclasses
import os
import platform
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl.engine.parallel import Placement
from jtl.experiment.compilation import compile_to_keep
from jtl.identity import UnknownError, identity
from jtl.platforms import compiler_options
from jtl.training.kept_programs import KeptPrograms

# Beside JAX's options, what its compilers are told by the environment.
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "PJRT_NPROC", "NPROC", "NVIDIA_TF32_OVERRIDE")
_COMPILERS = ("jax", "nvidia_", "libtpu")  # what names of their packages begin with
# Under these JAX runs a step in ways of its own.
_DEBUGGING = ("jax_disable_jit", "jax_debug_nans", "jax_debug_infs")


def keeping(place: Placement, programs: KeptPrograms) -> Placement:
    """The same placement, with compiled steps fetched from disk and kept there.

    A step that holds what `identity` does not know is compiled as ever, and so are those of
    several processes and of who debugs.

    Args:
        place: where steps run.
        programs: where they are kept.
    """
    if jax.process_count() > 1 or any(jax.config.values[name] for name in _DEBUGGING):
        return place
    return _Keeping(inner=place, programs=programs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Keeping:
    inner: Placement
    programs: KeptPrograms

    @property
    def devices(self) -> tuple[jax.Device, ...]:
        return self.inner.devices

    @property
    def local_devices(self) -> tuple[jax.Device, ...]:
        return self.inner.local_devices

    @property
    def batch_parts(self) -> int:
        return self.inner.batch_parts

    def share(self, batch_size: int) -> slice:
        return self.inner.share(batch_size)

    def compile(self, step: Callable[..., Any]) -> Callable[..., Any]:
        return _Step(step, self.inner, self.programs)

    def put_state(self, state: Any) -> Any:
        return self.inner.put_state(state)

    def get_state(self, state: Any) -> Any:
        return self.inner.get_state(state)

    def put_batch(self, batch: Any) -> Any:
        return self.inner.put_batch(batch)


class _Step:
    """A compiled step, which is found or made when its first arguments are known."""

    def __init__(self, step: Callable[..., Any], place: Placement, programs: KeptPrograms) -> None:
        self._step, self._place, self._programs = step, place, programs
        self._compiled: Any = place.compile(step)
        self._chosen: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        if self._chosen is None:
            return self._first(args)
        if self._chosen is self._compiled:
            return self._compiled(*args)
        try:
            return self._chosen(*args)
        except (TypeError, ValueError):
            # A kept program takes arguments of one kind alone, and says so before it runs.
            return self._compiled(*args)

    def _first(self, args: tuple[Any, ...]) -> Any:
        """The first call: a program that was found counts once it has come to its end."""
        key = self._key(args)
        found = None if key is None else self._programs.find(key)
        if key is None or found is None:
            self._chosen = self._compiled if key is None else self._made(key, args)
            return self._chosen(*args)
        try:
            results = jax.block_until_ready(found(*args))
        except Exception:  # whatever it was, it is made anew, now or at the next start
            self._programs.drop(key)
            if any(
                isinstance(own, jax.Array) and own.is_deleted() for own in jax.tree.leaves(args)
            ):
                raise
            self._chosen = self._made(key, args)
            return self._chosen(*args)
        self._chosen = found
        return results

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # not there yet, while a copy is being made
            raise AttributeError(name)
        return getattr(self._compiled, name)  # `lower` and what else a compiled step has

    def _key(self, args: tuple[Any, ...]) -> str | None:
        try:
            return identity(self._step, self._place, _surroundings(self._place), _signature(args))
        except UnknownError:
            return None

    def _made(self, key: str, args: tuple[Any, ...]) -> Callable[..., Any]:
        devices = self._place.devices
        program, fresh = compile_to_keep(self._compiled.lower(*args), devices[0].platform)
        if fresh:
            self._programs.keep(key, program, devices)
        return program


def _signature(args: tuple[Any, ...]) -> Any:
    """What a program is compiled for: structure, shapes, dtypes, and where the arguments lie."""
    leaves, structure = jax.tree.flatten(args)

    def of(leaf: Any) -> tuple[Any, ...]:
        if not isinstance(leaf, jax.Array | np.ndarray):
            raise UnknownError(f"an argument of {type(leaf)}")
        weak, sharding = getattr(leaf, "weak_type", False), getattr(leaf, "sharding", None)
        return leaf.shape, str(leaf.dtype), weak, repr(sharding)

    return str(structure), [of(leaf) for leaf in leaves]


def _surroundings(place: Placement) -> Any:
    """What else than a step decides on its program: settings, the compiler, the machine."""
    device = place.local_devices[0]
    settings = sorted((n, repr(own)) for n, own in jax.config.values.items() if "cache" not in n)
    variables = [os.environ.get(name) for name in _VARIABLES]
    flags, named = os.environ.get("XLA_FLAGS", "").strip(), ""
    if flags and not flags.startswith("-"):  # XLA also takes a file of flags
        with contextlib.suppress(OSError, ValueError):
            named = Path(flags).read_text()
    machine = _machine() if device.platform == "cpu" else ()
    backend = (device.platform, device.device_kind, device.client.platform_version)
    return backend, _compilers(), compiler_options(device), settings, variables, named, machine


@lru_cache
def _compilers() -> list[str]:
    """The packages that compilers and their libraries come in, with their versions."""
    folders = [Path(name) for name in sys.path if Path(name).is_dir()]
    found = {path.name for folder in folders for path in folder.glob("*.dist-info")}
    return sorted(name for name in found if name.startswith(_COMPILERS))


@lru_cache
def _machine() -> tuple[Any, ...]:
    """The processor, and how many cores its programs are divided among."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    told = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU"))}
    return cores, platform.machine(), platform.processor(), sorted(told)
