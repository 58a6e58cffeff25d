"""A placement whose compiled steps are kept on disk; otherwise it is the one that it stands for."""

import dataclasses
import os
import platform
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax

from jtl.engine.parallel import Placement
from jtl.experiment.compilation import compile_anew
from jtl.identity import UnknownError, identity
from jtl.platforms import compiler_options
from jtl.training.kept_programs import KeptPrograms

# Beside JAX's options, what its compilers are told by the environment.
_VARIABLES = ("XLA_", "LIBTPU_", "TF_", "NVIDIA_")


def keeping(place: Placement, programs: KeptPrograms) -> Placement:
    """The same placement, with compiled steps fetched from disk and kept there.

    A step that holds what `identity` does not know is compiled as ever, and so are those of
    several processes.

    Args:
        place: where steps run.
        programs: where they are kept.
    """
    if jax.process_count() > 1:
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
        self._found = ""  # the key of a program that was found

    def __call__(self, *args: Any) -> Any:
        if self._chosen is None:
            self._chosen = self._choose(args)
        try:
            return self._chosen(*args)
        except TypeError:
            # A kept program takes arguments of one shape alone, and says so before it runs.
            if self._chosen is self._compiled:
                raise
            self._chosen, self._found = self._compiled, ""
            return self._compiled(*args)
        except jax.errors.JaxRuntimeError:
            if self._found:
                self._programs.drop(self._found)  # whatever it was, the next start makes it anew
            raise

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # not there yet, while a copy is being made
            raise AttributeError(name)
        return getattr(self._compiled, name)  # `lower` and what else a compiled step has

    def _choose(self, args: tuple[Any, ...]) -> Callable[..., Any]:
        try:
            key = identity(self._step, self._place, _surroundings(self._place), _signature(args))
        except UnknownError:
            return self._compiled
        found = self._programs.find(key)
        if found is not None:
            self._found = key
            return found
        made = compile_anew(self._compiled.lower(*args))
        self._programs.keep(key, made, self._place.devices)
        return made


def _signature(args: tuple[Any, ...]) -> Any:
    """What a program is compiled for: structure, shapes, dtypes, and where the arguments lie."""
    leaves, structure = jax.tree.flatten(args)

    def of(leaf: Any) -> tuple[Any, ...]:
        weak, sharding = getattr(leaf, "weak_type", False), getattr(leaf, "sharding", None)
        return leaf.shape, str(leaf.dtype), weak, repr(sharding)

    return str(structure), [of(leaf) for leaf in leaves]


def _surroundings(place: Placement) -> Any:
    """What else than a step decides on its program: settings, the compiler, the machine."""
    device = place.local_devices[0]
    settings = sorted((n, repr(own)) for n, own in jax.config.values.items() if "cache" not in n)
    variables = sorted(own for own in os.environ.items() if own[0].startswith(_VARIABLES))
    machine = _machine() if device.platform == "cpu" else ()
    backend = (device.platform, device.device_kind, device.client.platform_version)
    return backend, compiler_options(device), settings, variables, machine


@lru_cache
def _machine() -> tuple[Any, ...]:
    """The processor, and how many cores its programs are divided among."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    told = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU"))}
    return cores, platform.machine(), platform.processor(), sorted(told)
