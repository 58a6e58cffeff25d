"""Checkpoints of a run: state, phase and data position, by Orbax, in `checkpoints/STEP`."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jtl.engine.state import TrainState
from jtl.errors import CheckpointError
from jtl.rng import KEY_IMPLEMENTATION
from jtl.tree import flatten, map_with_path, merge


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """What a run knows beside its state.

    Attributes:
        step: batches consumed, which is also the data position.
        phase: of the state, from 0.
        best_step: the saved step with the best monitored metric so far, or None.
        best_value: that metric.
        seconds: of training up to here, over all starts.
        patience_value: the best value of the metric that early stopping watches, in this phase.
        stale: evaluations in a row that did not better it.
        stopped: whether early stopping has ended the run.
        skipped: steps in a row, up to here, without a finite loss and gradient.
    """

    step: int = 0
    phase: int = 0
    best_step: int | None = None
    best_value: float | None = None
    seconds: float = 0.0
    patience_value: float | None = None
    stale: int = 0
    stopped: bool = False
    skipped: int = 0


class Checkpoints:
    """The checkpoints of one run's folder, as a context that waits for the last save.

    Saving is asynchronous. At any moment at least one earlier save is complete, so that a run
    that is killed while saving goes on from there.
    """

    def __init__(self, workdir: Path) -> None:
        self._folder = (workdir / "checkpoints").absolute()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self._folder, options=_options())
        except OSError as error:
            raise CheckpointError(
                f"{self._folder} cannot be written ({error.strerror}); choose another --workdir."
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._manager.close()

    def save(self, state: TrainState, progress: Progress) -> None:
        """Begins to save a plain state; earlier steps but the best are deleted when it is safe."""
        self._manager.wait_until_finished()
        before = self.progress() or Progress()
        # The best so far is needed until the new checkpoint, and with it a new best, is complete.
        kept = {before.step, before.best_step, progress.best_step}
        for step in self._manager.all_steps():
            if step not in kept:
                self._manager.delete(step)
        averaged = [] if state.ema is None else list(flatten(state.ema["params"]))
        self._manager.save(
            progress.step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(_host(_tree(state))),
                progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
                averaged=ocp.args.JsonSave({"params": averaged}),
            ),
        )

    def progress(self) -> Progress | None:
        """What the newest complete checkpoint knows; None where there is none."""
        step = self._manager.latest_step()
        if step is None:
            return None
        restored = self._manager.restore(
            step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())
        )
        return Progress(**restored["progress"])

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state saved at a step, in the structure, shapes and dtypes of `like`.

        Raises:
            CheckpointError: the checkpoint is missing, or does not fit.
        """
        found = self._restore(step, _tree(like))
        key = jax.random.wrap_key_data(found["rng"], impl=KEY_IMPLEMENTATION)
        return TrainState(**{**found, "rng": key})

    def variables(self, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters and statistics saved at a step, in the structure of `like`.

        Where the state kept running means, these are what is given.

        Raises:
            CheckpointError: the checkpoint is missing, or does not fit.
        """
        template = {name: like[name] for name in ("params", "batch_stats")}
        if averaged := self._averaged(step):
            params = map_with_path(
                lambda path, leaf: leaf if path in averaged else None, like["params"]
            )
            template["ema"] = {"params": params, "batch_stats": like["batch_stats"]}
        found = self._restore(step, template, partial_restore=True)
        ema = found.pop("ema", None)
        if ema is None:
            return found
        return {
            "params": merge(ema["params"], found["params"]),
            "batch_stats": ema["batch_stats"],
        }

    def _averaged(self, step: int) -> set[str]:
        """The paths of the parameters whose running means were saved at a step."""
        arguments = ocp.args.Composite(averaged=ocp.args.JsonRestore())
        try:
            return set(self._manager.restore(step, args=arguments)["averaged"]["params"])
        except (ValueError, KeyError, FileNotFoundError, TypeError) as error:
            raise self._misfit(step, error) from error

    def _restore(self, step: int, template: dict[str, Any], **options: Any) -> dict[str, Any]:
        # Given the shapes, Orbax would cut and fill what was saved until it fits.
        template = _host(template)
        arguments = ocp.checkpoint_utils.construct_restore_args(template, set_global_shape=False)
        restore = ocp.args.PyTreeRestore(template, restore_args=arguments, **options)
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(state=restore))["state"]
        except (ValueError, KeyError, FileNotFoundError, TypeError) as error:
            raise self._misfit(step, error) from error
        expected = flatten(template)
        problems = [
            f"{path} is {list(leaf.shape)} and not {list(expected[path].shape)}"
            for path, leaf in flatten(found).items()
            if leaf.shape != expected[path].shape
        ]
        if problems:
            raise self._misfit(step, f"{'; '.join(problems[:10])}.")
        return found

    def _misfit(self, step: int, why: object) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint {self._folder / str(step)} does not fit this run: {why}"
        )


def _options() -> ocp.CheckpointManagerOptions:
    if jax.process_count() == 1:
        return ocp.CheckpointManagerOptions(create=False, step_prefix=None)
    # This process writes alone; Orbax would wait for all of them.
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix="jtl"
    )
    return ocp.CheckpointManagerOptions(
        create=False, step_prefix=None, multiprocessing_options=alone
    )


def _tree(state: TrainState) -> dict[str, Any]:
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {**fields, "rng": _key_data(state.rng)}


def _key_data(key: Any) -> Any:
    if not isinstance(key, jax.ShapeDtypeStruct):
        return jax.random.key_data(key)
    plain = jax.eval_shape(jax.random.key_data, key)
    return jax.ShapeDtypeStruct(plain.shape, plain.dtype, sharding=key.sharding)


def _host(tree: Any) -> Any:
    """The tree in numpy where there are several processes, as Orbax refuses one's own arrays."""
    if jax.process_count() == 1:
        return tree

    def own(leaf: Any) -> np.ndarray:
        shape = isinstance(leaf, jax.ShapeDtypeStruct)
        return np.zeros(leaf.shape, leaf.dtype) if shape else np.asarray(leaf)

    return jax.tree.map(own, tree)


def abstract(state: TrainState) -> TrainState:
    """The shapes, dtypes and devices of a state, without its values."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )
