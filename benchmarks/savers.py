"""The two sides of the scorecard, each in a process of its own: jtl's checkpoints, bare Orbax.

    python -m benchmarks.savers SIDE ACTION FOLDER [NAME=VALUE ...]

Says what it does in lines of JSON. The state of a seed is known, so that every bit can be checked.
"""

import contextlib
import hashlib
import json
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

PAUSE = 3.0  # seconds of training after a save, before it is asked what is saved
METRICS = (0.9, float("nan"), 0.5)  # of steps 1, 2 and 3, where metrics are saved


class Side(Protocol):
    """What saves, names and restores states in a folder."""

    def save(self, step: int, seed: int, metric: float | None = None) -> None:
        """Begins to save the state of a seed."""
        ...

    def wait(self) -> None:
        """Waits until that is done; raises where it failed."""
        ...

    def steps(self) -> list[int]:
        """The steps that it says are saved."""
        ...

    def best(self) -> int | None:
        """The step with the best metric."""
        ...

    def newest(self) -> int | None:
        """The step that a start would go on from."""
        ...

    def restore(self, step: int) -> str:
        """The digest of the state saved at a step."""
        ...


def arrays(seed: int) -> dict[str, np.ndarray]:
    """The state of a seed: two matrices, of 3 MB together."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((640, 600), np.float32) for name in ("kernel", "momentum")}


def digest(tree: Any) -> str:
    """SHA-256 of the two matrices."""
    parts = (np.asarray(tree[name]).tobytes() for name in ("kernel", "momentum"))
    return hashlib.sha256(b"".join(parts)).hexdigest()


class Bare:
    """Orbax's `CheckpointManager` as its documentation shows it."""

    def __init__(self, folder: Path, keep: int | None) -> None:
        import orbax.checkpoint as ocp

        self._ocp = ocp
        by_metric = {"best_fn": lambda metrics: metrics["accuracy"], "best_mode": "max"}
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, **(by_metric if keep else {})
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, step: int, seed: int, metric: float | None = None) -> None:
        """Begins to save the state of a seed."""
        metrics = None if metric is None else {"accuracy": metric}
        tree = self._ocp.args.StandardSave(arrays(seed))
        self._manager.save(step, args=tree, metrics=metrics)

    def wait(self) -> None:
        """Waits until that is done; raises where it failed."""
        self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """The steps that it says are saved."""
        return list(self._manager.all_steps())

    def best(self) -> int | None:
        """The step with the best metric."""
        return self._manager.best_step()

    def newest(self) -> int | None:
        """The step that a start would go on from."""
        return self._manager.latest_step()

    def restore(self, step: int) -> str:
        """The digest of the state saved at a step."""
        restored = self._manager.restore(step, args=self._ocp.args.StandardRestore(arrays(0)))
        return digest(restored)


class Jtl:
    """jtl's checkpoints, as its loop uses them."""

    def __init__(self, folder: Path, keep: int | None) -> None:
        from jtl.training.checkpoint import CheckpointOptions, Checkpoints
        from jtl.training.saved_steps import Progress

        kept = CheckpointOptions(keep_last=keep or 1, keep_every=None if keep else 1)
        self._checkpoints, self._progress = Checkpoints(folder, kept), Progress()
        self._checkpoints.recover()

    def save(self, step: int, seed: int, metric: float | None = None) -> None:
        """Begins to save the state of a seed."""
        import dataclasses

        from jtl.training.selection import choose_best

        self._progress = dataclasses.replace(self._progress, step=step)
        if metric is not None:
            metrics = {"accuracy": metric}
            self._progress, _ = choose_best(self._progress, metrics, "accuracy")
        self._checkpoints.save(_state(seed), self._progress)

    def wait(self) -> None:
        """Waits until that is done; raises where it failed."""
        self._checkpoints.wait()

    def steps(self) -> list[int]:
        """The steps that it says are saved."""
        return self._checkpoints.steps()

    def best(self) -> int | None:
        """The step with the best metric."""
        found = self._checkpoints.progress()
        return found and found.best_step

    def newest(self) -> int | None:
        """The step that a start would go on from."""
        found = self._checkpoints.progress()
        return found and found.step

    def restore(self, step: int) -> str:
        """The digest of the state saved at a step."""
        from jtl.training.saved_steps import abstract

        return digest(self._checkpoints.restore(step, abstract(_state(0))).params)


def _state(seed: int) -> Any:
    import jax
    import optax

    import jtl

    params = jax.tree.map(jax.numpy.asarray, arrays(seed))
    return jtl.TrainState.create({"params": params}, optax.sgd(0.1), rng=0)


@contextlib.contextmanager
def opened(side: str, folder: Path, keep: int | None = None) -> Iterator[Side]:
    """A side at work in a folder; jtl's takes the folder for itself first."""
    if side == "bare":
        yield Bare(folder, keep)
        return
    from jtl.training.owner import owned

    with owned(folder):
        yield Jtl(folder, keep)


def save(side: str, folder: Path, *, steps: int, writer: int = 0, go: str = "") -> None:
    """Saves one step after the other; says each before it begins and once it is saved."""
    _say(ready=True)
    while go and not Path(go).exists():
        time.sleep(0.001)
    with opened(side, folder) as own:
        for step in range(1, steps + 1):
            seed = step + 100 * writer
            _say(saving=step)
            own.save(step, seed)
            own.wait()
            _say(saved=step, seed=seed)


def read(side: str, folder: Path) -> None:
    """Says which steps a start finds, and what it restores."""
    with opened(side, folder) as own:
        newest = own.newest()
        found = {step: _tried(own, step) for step in own.steps()}
        _say(newest=newest, digests=found)


def full(side: str, folder: Path) -> None:
    """Saves a step, then one that the system refuses to write: files over 100 kB, as if full.

    Says which steps are saved a while after the save began, and what a wait then raises.
    """
    with opened(side, folder) as own:
        own.save(1, 1)
        own.wait()
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        heard: list[str] = []
        _heard(heard, lambda: own.save(2, 2))
        time.sleep(PAUSE)
        says = own.steps()
        _heard(heard, own.wait)
        _say(heard=heard, says_saved=says)


def _heard(errors: list[str], action: Callable[[], None]) -> None:
    try:
        action()
    except Exception as error:  # whatever kind it is, it is heard
        errors.append(str(error).partition("\n")[0][:200])


def metrics(side: str, folder: Path) -> None:
    """Saves steps with these metrics, keeping one beside the best; says what it calls the best."""
    with opened(side, folder, keep=1) as own:
        for step, metric in enumerate(METRICS, 1):
            own.save(step, step, metric)
            own.wait()
        _say(best=own.best(), kept=own.steps())


def flip(side: str, folder: Path, *, count: int, beside: str) -> None:
    """Restores after each of many single flipped bits; says how each restore ended."""
    with opened(side, folder) as own:
        for step in (1, 2):
            own.save(step, step)
            own.wait()
    rng = random.Random(0)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "2" in path.parts)
    sizes = [path.stat().st_size for path in files]
    for number in range(count):
        copy = Path(beside) / str(number)
        shutil.copytree(folder, copy)
        path = copy / rng.choices(files, sizes)[0].relative_to(folder)
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        with opened(side, copy) as own:
            newest = own.newest()
            _say(newest=newest, digest=None if newest is None else _tried(own, newest))
        shutil.rmtree(copy)


def _tried(own: Side, step: int) -> str:
    try:
        return own.restore(step)
    except Exception as error:  # a restore that fails is noticed, however it does
        return f"error: {type(error).__name__}"


def _say(**words: Any) -> None:
    print(json.dumps(words), flush=True)


ACTIONS = {action.__name__: action for action in (save, read, full, metrics, flip)}


def main() -> None:
    """Carries out one action by one side."""
    side, action, folder, *options = sys.argv[1:]
    given: dict[str, Any] = dict(option.split("=", 1) for option in options)
    numbers = {name: int(value) if value.isdecimal() else value for name, value in given.items()}
    ACTIONS[action](side, Path(folder), **numbers)


if __name__ == "__main__":
    main()
