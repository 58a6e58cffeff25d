"""Checkpoints of a run: state, phase and data position, by Orbax, in `checkpoints/STEP`."""

import contextlib
import dataclasses
import itertools
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from annotated_types import Ge, Gt

from jtl.engine.state import TrainState
from jtl.errors import CheckpointError
from jtl.rng import KEY_IMPLEMENTATION
from jtl.training.manifest import NAME as MANIFEST
from jtl.training.manifest import damage, has_manifest, write_manifest
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
        due: whether the evaluation at this step is still to come.
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
    due: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Which checkpoints are made and stay; the best step always does.

    Attributes:
        every: steps between two checkpoints, beside those that follow evaluations; None makes
            only these.
        keep_last: how many of the newest stay; two survive that the newest is damaged.
        keep_every: checkpoints at multiples of this many steps stay for good; None keeps none.
    """

    every: Annotated[int, Gt(0)] | None = None
    keep_last: Annotated[int, Ge(1)] = 2
    keep_every: Annotated[int, Gt(0)] | None = None


_ASIDE = "damaged-"  # what names of damaged steps that were set aside begin with


class Checkpoints:
    """The checkpoints of one run's folder, as a context that waits for the last save.

    A step counts as saved when its manifest is durable, and is deleted only once a later one
    counts. Saving runs in a thread of its own on arrays that nothing changes any more.

    Args:
        workdir: the run's folder.
        keep: which steps stay.
        about: what the manifests keep beside the digests.
    """

    def __init__(
        self,
        workdir: Path,
        keep: CheckpointOptions = CheckpointOptions(),
        about: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = (workdir / "checkpoints").absolute()
        self._keep, self._about = keep, dict(about or {})
        self._whole: dict[int, bool] = {}
        self._saving: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "jtl-checkpoint")
        self._files = _checkpointer()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.wait()
        finally:
            self._thread.shutdown()
            self._files.close()

    def save(self, state: TrainState, progress: Progress) -> None:
        """Begins to save a plain state, after the save before it has ended.

        Raises:
            CheckpointError: the save before it failed.
        """
        self.wait()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"{self._folder} cannot be written ({error.strerror}); choose another --workdir."
            ) from error
        tree = jax.tree.map(np.asarray, _tree(state))
        averaged = [] if state.ema is None else list(flatten(state.ema["params"]))
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(tree),
            progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
            averaged=ocp.args.JsonSave({"params": averaged}),
            leaves=ocp.args.JsonSave({path: _kind(leaf) for path, leaf in flatten(tree).items()}),
        )
        self._saving = self._thread.submit(self._write, progress.step, items)

    def wait(self) -> None:
        """Waits until what was given to `save` is durable.

        Raises:
            CheckpointError: it cannot be saved; the steps saved before stand.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def progress(self) -> Progress | None:
        """What the newest step that verifies knows; None where there is none."""
        newest = None
        for step in reversed(self._steps()):
            if not self._verifies(step):
                continue
            found = self._progress_at(step)
            if found.best_step in (None, step) or self._verifies(found.best_step):
                return found
            newest = newest or found
        # Going on without the best so far is less of a loss than beginning again.
        return newest and dataclasses.replace(newest, best_step=None, best_value=None)

    def recover(self) -> list[str]:
        """Clears up after a start that was cut off: one line for each damaged step set aside.

        What was half written or half deleted is removed. Only the owner of the folder calls it.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        if not self._folder.is_dir():
            return []
        lines = []
        try:
            for path in sorted(self._folder.iterdir()):
                if path.name.startswith(_ASIDE):
                    continue
                if not (path.name.isdecimal() and path.is_dir() and has_manifest(path)):
                    _remove(path)
                elif found := damage(path):
                    aside = self._set_aside(path)
                    lines.append(f"step {path.name} is damaged ({found[0]}), set aside as {aside}")
        except OSError as error:
            raise CheckpointError(
                f"{self._folder} cannot be cleared up ({error.strerror}); make it writable."
            ) from error
        self._whole.clear()
        return lines

    def _set_aside(self, path: Path) -> Path:
        names = (f"{_ASIDE}{path.name}-{number}" for number in itertools.count(1))
        aside = next(path.with_name(name) for name in names if not (path.parent / name).exists())
        path.rename(aside)
        return aside

    def _write(self, step: int, items: ocp.args.Composite) -> None:
        folder = self._folder / str(step)
        try:
            _remove(folder)  # of a start that was cut off
            self._files.save(folder, args=items)
            write_manifest(folder, {**self._about, "step": str(step)})
            self._whole[step] = True
        except Exception as error:  # Orbax and what is below it raise of every kind
            with contextlib.suppress(OSError):
                _remove(folder)
            raise CheckpointError(
                f"step {step} could not be saved in {self._folder} ({_first_line(error)}); the "
                "steps saved before stand: make room or rights, then go on with --resume."
            ) from error
        with contextlib.suppress(OSError):  # what is left is removed at the next save
            self._delete()

    def _delete(self) -> None:
        steps = [step for step in self._steps() if self._verifies(step)]
        kept = set(steps[-self._keep.keep_last :])
        kept |= {self._progress_at(step).best_step or step for step in kept}
        for step in steps:
            if step not in kept and not (
                self._keep.keep_every and not step % self._keep.keep_every
            ):
                _remove(self._folder / str(step))

    def _steps(self) -> list[int]:
        """The steps whose saving came to its end, in order."""
        if not self._folder.is_dir():
            return []
        names = [path.name for path in self._folder.iterdir() if has_manifest(path)]
        return sorted(int(name) for name in names if name.isdecimal())

    def _verifies(self, step: int | None) -> bool:
        """Whether a step is whole, looked at once, as verifying reads all of it."""
        if step is None or not has_manifest(self._folder / str(step)):
            return False
        if step not in self._whole:
            self._whole[step] = not damage(self._folder / str(step))
        return self._whole[step]

    def _progress_at(self, step: int) -> Progress:
        arguments = ocp.args.Composite(progress=ocp.args.JsonRestore())
        return Progress(**self._files.restore(self._folder / str(step), args=arguments)["progress"])

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
        self._check(step)
        try:
            found = self._files.restore(self._folder / str(step), args=arguments)
            return set(found["averaged"]["params"])
        except (ValueError, KeyError, FileNotFoundError, TypeError) as error:
            raise self._misfit(step, error) from error

    def _restore(self, step: int, template: dict[str, Any], **options: Any) -> dict[str, Any]:
        self._check(step)
        self._compare(step, template, partial=bool(options))
        template = _host(template)
        arguments = ocp.checkpoint_utils.construct_restore_args(template, set_global_shape=False)
        restore = ocp.args.PyTreeRestore(template, restore_args=arguments, **options)
        items = ocp.args.Composite(state=restore)
        try:
            found = self._files.restore(self._folder / str(step), args=items)
            state: dict[str, Any] = found["state"]
            return state
        except (ValueError, KeyError, FileNotFoundError, TypeError) as error:
            raise self._misfit(step, error) from error

    def _compare(self, step: int, template: Any, *, partial: bool) -> None:
        # Given other shapes or dtypes, Orbax would cut, fill and cast what was saved to fit.
        arguments = ocp.args.Composite(leaves=ocp.args.JsonRestore())
        saved = self._files.restore(self._folder / str(step), args=arguments)["leaves"]
        asked = {path: _kind(leaf) for path, leaf in flatten(template).items()}
        problems = [
            f"{path} is {saved.get(path, 'missing')} and not {kind}"
            for path, kind in asked.items()
            if saved.get(path) != kind
        ]
        if not partial:
            problems += [f"{path} is left over" for path in saved if path not in asked]
        if problems:
            raise self._misfit(step, f"{'; '.join(problems[:10])}.")

    def _check(self, step: int) -> None:
        folder = self._folder / str(step)
        if not has_manifest(folder):
            raise self._misfit(step, "it is not there, or its saving was cut off.")
        if not self._verifies(step):
            raise self._misfit(step, f"{'; '.join(damage(folder)[:10])}.")

    def _misfit(self, step: int, why: object) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint {self._folder / str(step)} does not fit this run: {why}"
        )


def _checkpointer() -> ocp.Checkpointer:
    if jax.process_count() == 1:
        return ocp.Checkpointer(ocp.CompositeCheckpointHandler())
    # This process writes alone; Orbax would wait for all of them.
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix="jtl"
    )
    options = ocp.CompositeOptions(multiprocessing_options=alone)
    handler = ocp.CompositeCheckpointHandler(composite_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _remove(path: Path) -> None:
    """Removes a step or what is left of one; cut off, it leaves what counts as half written."""
    if path.is_dir() and not path.is_symlink():
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype} {list(leaf.shape)}"


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
