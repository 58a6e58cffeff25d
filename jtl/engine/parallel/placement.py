"""What a placement promises, and what its kinds share: copies, checks, compiling, donation."""

import dataclasses
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state

from jtl.errors import ConfigError
from jtl.platforms import compiler_options

AXIS = "batch"


class Placement(Protocol):
    """Where a step runs; it changes nothing that the step computes.

    Under several processes each calls the same methods in the same order, and gives its own
    share of each batch; what comes back is whole on every one of them.
    """

    @property
    def devices(self) -> tuple[jax.Device, ...]:
        """The devices of all processes, those of a process side by side."""
        ...

    @property
    def local_devices(self) -> tuple[jax.Device, ...]:
        """This process's own, the first of which plain states come back to."""
        ...

    @property
    def batch_parts(self) -> int:
        """How many equal parts a global batch is spread over."""
        ...

    def share(self, batch_size: int) -> slice:
        """The rows of a global batch that this process gives to `put_batch`.

        Args:
            batch_size: examples in the global batch.

        Raises:
            ConfigError: they do not divide over the devices.
        """
        ...

    def compile(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The step, compiled; its first argument is donated where the step allows it."""
        ...

    def put_state(self, state: Any) -> Any:
        """A copy of a state or of variables on all devices; the caller keeps its own."""
        ...

    def get_state(self, state: Any) -> Any:
        """One plain, unreplicated copy on this process's first device."""
        ...

    def put_batch(self, batch: Any) -> Any:
        """This process's share of a batch, `[share, ...]` in every leaf, over its devices.

        An array that was given is not to be written to again: a device may still be reading it.
        """
        ...


def check_batch_size(batch_size: int, device_count: int, name: str = "batch_size") -> None:
    """Refuses a batch that does not divide over the devices.

    Args:
        batch_size: examples, in the global batch or in a process's share of it.
        device_count: how many devices take a part of them, of all processes or of one.
        name: of the option, for the error.

    Raises:
        ConfigError: with the nearest size that does.
    """
    if batch_size % device_count:
        nearest = max(batch_size - batch_size % device_count, device_count)
        raise ConfigError(
            f"{name}={batch_size} does not divide over {device_count} devices; "
            f"set a multiple of {device_count}, such as {nearest}."
        )


def check_share(batch: Any, parts: int, whole: bool) -> None:
    """Refuses a batch with a leaf that does not divide over this process's devices.

    Args:
        batch: what this process was given.
        parts: how many its devices take.
        whole: whether it is the global batch.

    Raises:
        ConfigError: with the nearest size that does.
    """
    name = "the batch's first axis" if whole else "first axis of this process's share"
    for leaf in jax.tree.leaves(batch):
        check_batch_size(leaf.shape[0], parts, name)


def share_of(batch_size: int, parts: int, own: range) -> slice:
    """The rows of a global batch in consecutive parts of it.

    Args:
        batch_size: examples in the global batch.
        parts: how many it divides into.
        own: which of them are meant.

    Raises:
        ConfigError: the batch does not divide.
    """
    check_batch_size(batch_size, parts)
    rows = batch_size // parts
    return slice(own.start * rows, own.stop * rows)


def jitted(step: Callable[..., Any], device: jax.Device, **options: Any) -> Callable[..., Any]:
    """The step under `jax.jit`, with what the compiler should know of a device.

    Args:
        step: what is compiled.
        device: one of those that it runs on.
        **options: of `jax.jit`.
    """
    bare = jax.jit(step, **options)
    told = compiler_options(device)
    if told is None:
        return bare
    return _Told(bare=bare, told=jax.jit(step, compiler_options=told, **options))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Told:
    """A compiled function; in a program around it, such as a scan over steps, the bare one."""

    bare: Callable[..., Any]
    told: Any

    def __call__(self, *args: Any, **named: Any) -> Any:
        if _trace_state() != _no_trace():
            return self.bare(*args, **named)
        return self.told(*args, **named)

    def __getattr__(self, name: str) -> Any:
        if name in ("bare", "told"):  # not there yet, while a copy is being made
            raise AttributeError(name)
        return getattr(self.told, name)  # `lower` and what else a jitted function has


def _trace_state() -> Any:
    return get_opaque_trace_state(convention="flax")


@lru_cache
def _no_trace() -> Any:
    """The state in which nothing is being traced, which is that of every new thread."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(_trace_state()))
    thread.start()
    thread.join()
    return found[0]


def donated_by(step: Callable[..., Any]) -> tuple[int, ...]:
    """The arguments whose memory a step may take for its results."""
    return getattr(step, "donated", ())


def copied(tree: Any) -> Any:
    """A copy of every leaf as a device array."""
    # device_put aliases what already lies on a device, and a donated step would delete it; only of
    # what lies on one alone does `may_alias` make a copy, and that without a program a shape.
    leaves, structure = jax.tree.flatten(tree)
    simple = [place for place, leaf in enumerate(leaves) if _lies_on_one_device(leaf)]
    made = dict(
        zip(simple, jax.device_put([leaves[i] for i in simple], may_alias=False), strict=True)
    )
    copies = [
        made[place] if place in made else jnp.array(leaf, copy=True)
        for place, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, copies)


def _lies_on_one_device(leaf: Any) -> bool:
    """Whether a leaf is an array of one device, of a dtype that it was given."""
    weak = getattr(leaf, "weak_type", False)  # keys have none
    return isinstance(leaf, jax.Array) and not weak and len(leaf.devices()) == 1


def plain(tree: Any, device: jax.Device) -> Any:
    """A copy of a tree, all of which this process can see, on one device."""
    # What is spread over devices is aliased by its part here, whatever `may_alias` says.
    if any(leaf.devices() != {device} for leaf in jax.tree.leaves(tree)):
        tree = jax.device_put(tree, device)
    return jax.device_put(tree, device, may_alias=False)
