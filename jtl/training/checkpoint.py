"""Checkpoints of a run: state, phase and data position, by Orbax, in `checkpoints/STEP`."""

import contextlib
import dataclasses
import itertools
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal

import jax
import numpy as np
from annotated_types import Ge, Gt

from jtl.engine.state import TrainState
from jtl.errors import CheckpointError, TakenOverError
from jtl.rng import KEY_IMPLEMENTATION
from jtl.training.file_digests import DigestsAhead
from jtl.training.frozen_store import PREFIX, Digests, FrozenStores
from jtl.training.manifest import about as about_in
from jtl.training.manifest import damage, has_manifest, remove, write_manifest
from jtl.training.mirror import Mirror
from jtl.training.orbax_files import OrbaxFiles
from jtl.tree import filled, flatten, map_with_path, merge, without


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
        on_failure: whether a save that fails ends the run (`stop`), or is told and followed by the
            next one (`continue`); the last must succeed.
    """

    every: Annotated[int, Gt(0)] | None = None
    keep_last: Annotated[int, Ge(1)] = 2
    keep_every: Annotated[int, Gt(0)] | None = None
    on_failure: Literal["stop", "continue"] = "stop"


_ASIDE = "damaged-"  # what names of damaged steps that were set aside begin with
_SHARED = "shared"  # the record of a step that says which of its leaves stand in which store
_MISFITS = (ValueError, KeyError, FileNotFoundError, TypeError)  # that Orbax raises


class Checkpoints:
    """The checkpoints of one run's folder, as a context that waits for the last save.

    A step counts as saved when its manifest is durable, and is deleted only once a later one
    counts. Saving runs in a thread of its own on arrays that nothing changes any more. Leaves
    that a run never trains are stored once, in `checkpoints/frozen-*`, which every step that
    needs them names with their digests.

    Args:
        workdir: the run's folder.
        keep: which steps stay.
        about: what the manifests keep beside the digests.
        mirror: stores the folder elsewhere, where alone a step then counts; None where it does not.
    """

    def __init__(
        self,
        workdir: Path,
        keep: CheckpointOptions = CheckpointOptions(),
        about: Mapping[str, str] | None = None,
        mirror: Mirror | None = None,
    ) -> None:
        self._folder, self._mirror = (workdir / "checkpoints").absolute(), mirror
        self._keep, self._about = keep, dict(about or {})
        self._whole: dict[int, bool] = {}
        self._saving: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "jtl-checkpoint")
        self._files = OrbaxFiles()
        self._stores = FrozenStores(self._folder, self._files, self._about)

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

    def save(self, state: TrainState, progress: Progress, shared: Digests | None = None) -> None:
        """Begins to save a plain state, after the save before it has ended.

        Args:
            state: which nothing changes any more; the caller does not wait for its values.
            progress: at that state.
            shared: the digests of leaves that no step so far has changed, by slash path, such as
                `params/stem/conv/kernel`.

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
        self._saving = self._thread.submit(self._write, state, progress, dict(shared or {}))

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
        for step in reversed(self.steps()):
            if not self._verifies(step):
                continue
            found = self._progress_at(step)
            if found.best_step in (None, step) or self._verifies(found.best_step):
                return found
            newest = newest or found
        # Going on without the best so far is less of a loss than beginning again.
        return newest and dataclasses.replace(newest, best_step=None, best_value=None)

    def has(self, step: int) -> bool:
        """Whether a step is saved and whole."""
        return self._verifies(step)

    def recover(self, variables: Mapping[str, Any] | None = None) -> list[str]:
        """Clears up after a start that was cut off: one line for all that was damaged.

        What was half written or half deleted is removed, a damaged step set aside, a damaged
        store of frozen leaves made anew where that is possible. Only the owner of the folder
        calls it.

        Args:
            variables: the pretrained ones, which stores can be made from.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        if not self._folder.is_dir():
            return []
        self._whole.clear()
        self._stores.forget()
        try:
            for path in sorted(self._folder.iterdir()):
                stands = path.name.isdecimal() or path.name.startswith(PREFIX)
                stands = stands and path.is_dir() and has_manifest(path)
                if not (stands or path.name.startswith(_ASIDE)):
                    remove(path)
            lines = self._mend_stores(variables or {})
            for step in self.steps():
                if found := self._flaws(step):
                    aside = self._set_aside(self._folder / str(step))
                    lines.append(f"step {step} is damaged ({found[0]}), set aside as {aside}")
            if self._mirror is not None:
                self._mirror.store()
                self._mirror.prune()
        except OSError as error:
            raise CheckpointError(
                f"{self._folder} cannot be cleared up ({error.strerror}); make it writable."
            ) from error
        return [self._said(line) for line in lines]

    def _said(self, text: str) -> str:
        return text if self._mirror is None else self._mirror.said(text)

    def _mend_stores(self, variables: Mapping[str, Any]) -> list[str]:
        needed: dict[str, dict[str, str]] = {name: {} for name in self._stores.names()}
        for step in self.steps():
            if not damage(self._folder / str(step)) and (shared := self._shared(step)):
                needed.setdefault(shared[0], {}).update(shared[1])
        lines = []
        for name, digests in needed.items():
            if not (found := self._stores.flaws(name)):
                continue
            line = f"the frozen leaves {name} are damaged ({found[0]})"
            if (self._folder / name).exists():
                line += f", set aside as {self._set_aside(self._folder / name)}"
            if digests and self._stores.mend(name, digests, variables):
                line += ", made anew from the pretrained weights"
            lines.append(line)
        return lines

    def _set_aside(self, path: Path) -> Path:
        names = (f"{_ASIDE}{path.name}-{number}" for number in itertools.count(1))
        aside = next(path.with_name(name) for name in names if not (path.parent / name).exists())
        path.rename(aside)
        return aside

    def _write(self, state: TrainState, progress: Progress, shared: Digests) -> None:
        step = progress.step
        folder = self._folder / str(step)
        try:
            remove(folder)  # of a start that was cut off
            self._whole.pop(step, None)
            with DigestsAhead(folder) as digests:
                self._write_step(folder, state, progress, shared)
                write_manifest(folder, {**self._about, "step": str(step)}, digests)
            if self._mirror is not None:
                self._mirror.store()
            self._whole[step] = True
        except Exception as error:  # Orbax and what is below it raise of every kind
            with contextlib.suppress(OSError):
                remove(folder)
            if isinstance(error, TakenOverError):
                raise
            text = (
                f"step {step} could not be saved in {self._folder} ({_first_line(error)}); the "
                "steps saved before stand: make room or rights, then go on with --resume."
            )
            raise CheckpointError(self._said(text)) from error
        # What is left is removed at the next save; while a record cannot be read, nothing is.
        with contextlib.suppress(OSError, CheckpointError, *_MISFITS):
            self._delete()
            if self._mirror is not None:
                self._mirror.prune()

    def _write_step(
        self, folder: Path, state: TrainState, progress: Progress, shared: Digests
    ) -> None:
        tree = jax.tree.map(np.asarray, state_tree(state))
        leaves = flatten(tree)
        records: dict[str, Any] = {
            "progress": dataclasses.asdict(progress),
            "averaged": {"params": [] if state.ema is None else list(flatten(state.ema["params"]))},
            "leaves": {path: _kind(leaf) for path, leaf in leaves.items()},
        }
        if shared:
            store = self._stores.keep({path: leaves[path] for path in shared}, shared)
            records[_SHARED] = {"store": store, "digests": dict(shared)}
            tree = without(tree, shared)
        self._files.write(folder, tree, **records)

    def _delete(self) -> None:
        steps = [step for step in self.steps() if self._verifies(step)]
        best = {step: self._progress_at(step).best_step for step in steps}
        for step in set(steps) - kept_steps(best, self._keep):
            remove(self._folder / str(step))
        needed = {shared[0] for step in self.steps() if (shared := self._shared(step))}
        self._stores.delete_all_but(needed)

    def steps(self) -> list[int]:
        """The steps whose saving came to its end, in order; be they damaged since or not."""
        if not self._folder.is_dir():
            return []
        names = [path.name for path in self._folder.iterdir() if has_manifest(path)]
        return sorted(int(name) for name in names if name.isdecimal())

    def _verifies(self, step: int | None) -> bool:
        """Whether a step is whole, looked at once, as verifying reads all of it."""
        if step is None or not has_manifest(self._folder / str(step)):
            return False
        if step not in self._whole:
            self._whole[step] = not self._flaws(step)
        return self._whole[step]

    def _flaws(self, step: int) -> list[str]:
        """What is wrong with a step or with the frozen leaves that it names."""
        if found := damage(self._folder / str(step)):
            return found
        shared = self._shared(step)
        if shared is None or not (found := self._stores.flaws(shared[0])):
            return []
        return [
            f"its {len(shared[1])} frozen leaves stand in {self._folder / shared[0]}, and there "
            f"{found[0]}; bring that folder back, or go on with --resume, which makes it anew from "
            f"the pretrained weights{self._weights_of(step)}"
        ]

    def _weights_of(self, step: int) -> str:
        weights = about_in(self._folder / str(step)).get("weights")
        return f" {weights}" if weights else ""

    def _shared(self, step: int) -> tuple[str, dict[str, str]] | None:
        """The store of a step's frozen leaves, and their digests by path."""
        folder = self._folder / str(step)
        if not (folder / _SHARED).is_dir():
            return None
        record = self._files.record(folder, _SHARED)
        return record["store"], record["digests"]

    def _progress_at(self, step: int) -> Progress:
        return Progress(**self._files.record(self._folder / str(step), "progress"))

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state saved at a step, in the structure, shapes and dtypes of `like`.

        Raises:
            CheckpointError: the checkpoint is missing, or does not fit.
        """
        found = self._restore(step, state_tree(like))
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
        found = self._restore(step, template, partial=True)
        ema = found.pop("ema", None)
        if ema is None:
            return found
        return {
            "params": merge(ema["params"], found["params"]),
            "batch_stats": ema["batch_stats"],
        }

    def _averaged(self, step: int) -> set[str]:
        """The paths of the parameters whose running means were saved at a step."""
        self._check(step)
        try:
            return set(self._files.record(self._folder / str(step), "averaged")["params"])
        except _MISFITS as error:
            raise self._misfit(step, error) from error

    def _restore(
        self, step: int, template: dict[str, Any], *, partial: bool = False
    ) -> dict[str, Any]:
        self._check(step)
        self._compare(step, template, partial=partial)
        folder = self._folder / str(step)
        try:
            store, digests = self._shared(step) or ("", {})
            own = without(template, digests)
            state: dict[str, Any] = self._files.tree(folder, own, partial=partial)
            asked = {path: leaf for path, leaf in flatten(template).items() if path in digests}
            if asked:
                held = self._stores.read(store, digests, asked)
                state = filled(state, held)
            return state
        except _MISFITS as error:
            raise self._misfit(step, error) from error

    def _compare(self, step: int, template: Any, *, partial: bool) -> None:
        # Given other shapes or dtypes, Orbax would cut, fill and cast what was saved to fit.
        saved = self._files.record(self._folder / str(step), "leaves")
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
            raise self._misfit(step, f"{'; '.join(self._flaws(step)[:10])}.")

    def _misfit(self, step: int, why: object) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint {self._folder / str(step)} does not fit this run: {why}"
        )


def kept_steps(best: Mapping[int, int | None], keep: CheckpointOptions) -> set[int]:
    """Which steps stay.

    Args:
        best: of each whole step, in order, the best step so far when it was saved.
        keep: what was asked for.
    """
    newest = list(best)[-keep.keep_last :]
    bests = {step for own in newest if (step := best[own]) in best and step is not None}
    milestones = {step for step in best if keep.keep_every and not step % keep.keep_every}
    return {*newest, *bests, *milestones}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype} {list(leaf.shape)}"


def state_tree(state: TrainState) -> dict[str, Any]:
    """The tree that is saved of a state, its key as plain numbers."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {**fields, "rng": _key_data(state.rng)}


def _key_data(key: Any) -> Any:
    if not isinstance(key, jax.ShapeDtypeStruct):
        return jax.random.key_data(key)
    plain = jax.eval_shape(jax.random.key_data, key)
    return jax.ShapeDtypeStruct(plain.shape, plain.dtype, sharding=key.sharding)


def abstract(state: TrainState) -> TrainState:
    """The shapes, dtypes and devices of a state, without its values."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )
