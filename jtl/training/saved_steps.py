"""Steps that were saved: found, verified, and read back, in `checkpoints/STEP`."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax

from jtl.engine.state import TrainState
from jtl.errors import CheckpointError
from jtl.rng import KEY_IMPLEMENTATION
from jtl.training.frozen_store import FrozenStores
from jtl.training.manifest import about as about_in
from jtl.training.manifest import damage, has_manifest
from jtl.training.orbax_files import OrbaxFiles
from jtl.tree import filled, flatten, map_with_path, merge, without

SHARED = "shared"  # the record of a step that says which of its leaves stand in which store
MISFITS = (ValueError, KeyError, FileNotFoundError, TypeError)  # that Orbax raises


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


class SavedSteps:
    """The steps in a run's folder, as a context; one counts where its manifest verifies.

    Args:
        workdir: the run's folder.
        about: what the manifests keep beside the digests.
    """

    def __init__(self, workdir: Path, about: Mapping[str, str] | None = None) -> None:
        self._folder = (workdir / "checkpoints").absolute()
        self._about = dict(about or {})
        self._whole: dict[int, bool] = {}
        self._files = OrbaxFiles()
        self._stores = FrozenStores(self._folder, self._files, self._about)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.close()

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
        if not (folder / SHARED).is_dir():
            return None
        record = self._files.record(folder, SHARED)
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
        except MISFITS as error:
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
        except MISFITS as error:
            raise self._misfit(step, error) from error

    def _compare(self, step: int, template: Any, *, partial: bool) -> None:
        # Given other shapes or dtypes, Orbax would cut, fill and cast what was saved to fit.
        saved = self._files.record(self._folder / str(step), "leaves")
        asked = {path: kind_of(leaf) for path, leaf in flatten(template).items()}
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


def kind_of(leaf: Any) -> str:
    """The dtype and shape of a leaf, as records name them."""
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
