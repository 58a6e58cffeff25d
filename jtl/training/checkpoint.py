"""Checkpoints of a run as they are made: saved, mended after a cut, and deleted again."""

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
from jtl.training.file_digests import DigestsAhead
from jtl.training.frozen_store import PREFIX, Digests
from jtl.training.manifest import damage, has_manifest, remove, write_manifest
from jtl.training.mirror import Mirror
from jtl.training.saved_steps import MISFITS, SHARED, Progress, SavedSteps, kind_of, state_tree
from jtl.tree import flatten, without


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


class Checkpoints(SavedSteps):
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
        super().__init__(workdir, about)
        self._mirror, self._keep = mirror, keep
        self._saving: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "jtl-checkpoint")

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
            super().__exit__(kind, error, trace)

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
        self._files.open()
        self._saving = self._thread.submit(self._write, state, progress, dict(shared or {}))

    def wait(self) -> None:
        """Waits until what was given to `save` is durable.

        Raises:
            CheckpointError: it cannot be saved; the steps saved before stand.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

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
        with contextlib.suppress(OSError, CheckpointError, *MISFITS):
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
            "leaves": {path: kind_of(leaf) for path, leaf in leaves.items()},
        }
        if shared:
            store = self._stores.keep({path: leaves[path] for path in shared}, shared)
            records[SHARED] = {"store": store, "digests": dict(shared)}
            tree = without(tree, shared)
        self._files.write(folder, tree, **records)

    def _delete(self) -> None:
        steps = [step for step in self.steps() if self._verifies(step)]
        best = {step: self._progress_at(step).best_step for step in steps}
        for step in set(steps) - kept_steps(best, self._keep):
            remove(self._folder / str(step))
        needed = {shared[0] for step in self.steps() if (shared := self._shared(step))}
        self._stores.delete_all_but(needed)


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
