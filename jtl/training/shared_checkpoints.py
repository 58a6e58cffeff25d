"""The checkpoints of a run of several processes: the first reads and writes for all."""

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import jax

from jtl.engine.state import TrainState
from jtl.rng import KEY_IMPLEMENTATION
from jtl.training.checkpoint import CheckpointOptions, Checkpoints
from jtl.training.frozen_store import Digests
from jtl.training.mirror import Mirror
from jtl.training.saved_steps import Progress
from jtl.training.together import arrays_of_first, is_first, on_first


class Store(Protocol):
    """Where the states of a run are saved; `Checkpoints` documents it."""

    def save(self, state: TrainState, progress: Progress, shared: Digests | None = None) -> None:
        """Begins to save a plain state; what is shared is stored once for all steps."""
        ...

    def wait(self) -> None:
        """Waits until what was given to `save` is durable."""
        ...

    def has(self, step: int) -> bool:
        """Whether a step is saved and whole."""
        ...

    def recover(self, variables: Mapping[str, Any] | None = None) -> list[str]:
        """Clears up after a start that was cut off: a line for all that was damaged."""
        ...

    def progress(self) -> Progress | None:
        """What the newest step that verifies knows; None where there is none."""
        ...

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state saved at a step, in the structure, shapes and dtypes of `like`."""
        ...

    def variables(self, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters and statistics saved at a step, in the structure of `like`."""
        ...


def open_checkpoints(
    workdir: Path,
    keep: CheckpointOptions,
    about: Mapping[str, str],
    mirror: Mirror | None = None,
) -> AbstractContextManager[Store]:
    """The checkpoints in a run's folder, for one process or for all that run together.

    Args:
        workdir: the run's folder.
        keep: which steps stay.
        about: what the manifests keep beside the digests.
        mirror: stores the folder of one process elsewhere; None where it does not.
    """
    if jax.process_count() == 1:
        return Checkpoints(workdir, keep, about, mirror)
    return SharedCheckpoints(workdir, keep, about)


class SharedCheckpoints:
    """Checkpoints that only the first process touches; every process makes the same calls."""

    def __init__(self, workdir: Path, keep: CheckpointOptions, about: Mapping[str, str]) -> None:
        self._own = Checkpoints(workdir, keep, about) if is_first() else None

    def __enter__(self) -> "SharedCheckpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._own is not None:
            self._own.__exit__(kind, error, trace)

    def save(self, state: TrainState, progress: Progress, shared: Digests | None = None) -> None:
        """Begins to save a plain state, which is the same on every process."""
        on_first(lambda: self._mine.save(state, progress, shared))

    def wait(self) -> None:
        """Waits until what was given to `save` is durable."""
        on_first(lambda: self._mine.wait())

    def has(self, step: int) -> bool:
        """Whether a step is saved and whole."""
        return on_first(lambda: self._mine.has(step))

    def recover(self, variables: Mapping[str, Any] | None = None) -> list[str]:
        """Clears up after a start that was cut off: a line for all that was damaged."""
        return on_first(lambda: self._mine.recover(variables))

    def progress(self) -> Progress | None:
        """What the newest step that verifies knows; None where there is none."""

        def read() -> dict[str, Any] | None:
            found = self._mine.progress()
            return None if found is None else dataclasses.asdict(found)

        record = on_first(read)
        return None if record is None else Progress(**record)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state saved at a step, on this process's device."""
        found: list[TrainState] = []
        on_first(lambda: found.append(self._mine.restore(step, like)))
        state = _received(_raw(like), _raw(found[0]) if found else None)
        key = jax.random.wrap_key_data(state.rng, impl=KEY_IMPLEMENTATION)
        return dataclasses.replace(state, rng=key)

    def variables(self, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters and statistics saved at a step, on this process's device."""
        found: list[dict[str, Any]] = []
        on_first(lambda: found.append(self._mine.variables(step, like)))
        template = {name: like[name] for name in ("params", "batch_stats")}
        received: dict[str, Any] = _received(template, found[0] if found else None)
        return received

    @property
    def _mine(self) -> Checkpoints:
        assert self._own is not None, "only the first process has checkpoints"
        return self._own


def _received(like: Any, arrays: Any) -> Any:
    return jax.device_put(arrays_of_first(like, arrays), jax.local_devices()[0])


def _raw(state: TrainState) -> TrainState:
    """The state with its key as plain numbers, which can be sent."""
    abstract = isinstance(state.rng, jax.ShapeDtypeStruct)
    data = jax.random.key_data
    rng = jax.eval_shape(data, state.rng) if abstract else data(state.rng)
    return dataclasses.replace(state, rng=rng)
