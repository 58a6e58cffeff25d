"""What does saving cost? A ResNet-50's checkpoint beside bare Orbax, a plain copy, and no saving.

    python -m benchmarks.checkpoint

Three questions on one network with AdamW, both sides taking turns. How long is the loop held up by
a save, beside one copy of the same arrays in memory and beside Orbax's own asynchronous manager?
How long until a save is durable, what of that is waiting for digests, and how long does a restore
take? And what do steps cost while a save runs beside them, spread over the 500 steps between two
saves? The head-only run says how small a checkpoint is whose frozen leaves stand in a file of
their own.
"""

import contextlib
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

import jtl
from benchmarks import record
from jtl.training import checkpoint, saved_steps
from jtl.training.audit import frozen_leaves
from jtl.training.checkpoint import Checkpoints
from jtl.training.phases import Phase
from jtl.training.saved_steps import Progress, abstract
from jtl.training.snapshot import Snapshots
from jtl.tree import differences, digest, flatten

BETWEEN = 500  # steps from one save to the next, over which its cost is spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How large the question is: network, images a batch, pixels a side, and repeats."""

    model: str
    batch: int
    pixels: int
    saves: int
    blocks: int
    steps: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A network with its step: what runs, what of it is held, and what is stored once."""

    step: Any
    running: Any
    held: dict[str, Any]

    @property
    def shared(self) -> dict[str, str]:
        """The digests of what is held."""
        return {path: digest(leaf) for path, leaf in self.held.items()}


def main() -> None:
    """Takes turns, prints the table and writes the JSON."""
    arguments = record.parser(__doc__).parse_args()
    size = Size(model="resnet50", batch=8, pixels=128, saves=9, blocks=6, steps=6)
    if jax.default_backend() != "cpu":
        size = dataclasses.replace(size, batch=128, pixels=224, steps=40)
    if arguments.smoke:
        size = Size(model="resnet_mini", batch=2, pixels=32, saves=2, blocks=1, steps=1)
    place = jtl.parallel.single()
    full, head = (_subject(size, place, freeze) for freeze in ("none", "backbone"))
    rows = []
    with _folder() as folder:
        rows.append(_saves("full", folder / "full", place, full, size.saves))
        rows.append(_saves("head only", folder / "head", place, head, size.saves))
        rows.append(_overhead(folder / "overhead", place, full, size))
    of = rows[0]["step_bytes"] / rows[1]["step_bytes"]
    rows[1]["full_step_bytes_of_step_bytes"] = of
    _print(size, rows)
    # Other work on the machine: what runs beside a measurement belongs to it.
    extra = {**dataclasses.asdict(size), "load_average": os.getloadavg()[0]}
    print(record.write(arguments.results, "checkpoint", rows, **extra))


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    # Beside the project, because /tmp may be memory, where syncing costs nothing.
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=Path.cwd()) as name:
        yield Path(name)


def _subject(size: Size, place: Any, freeze: str) -> Subject:
    pretrained = jtl.load_model(size.model, weights=None, num_classes=10, rng=0)
    labels = jtl.freeze_labels(pretrained.variables["params"], freeze)
    tx = jtl.partition_optimizer(optax.adamw(1e-3), labels)
    step = jtl.make_train_step(pretrained.model, tx, freeze=freeze)
    state = jtl.TrainState.create(pretrained.variables, tx, rng=0)
    schedule = optax.constant_schedule(1e-3)
    phase = Phase(start=0, stop=1, freeze=freeze, labels=labels, step=step, tx=tx, rate=schedule)
    held = frozen_leaves(state.variables, (phase,))
    batch = _batch(size, place)
    running, compiled = place.put_state(state), place.compile(step)

    def go(running: Any) -> Any:
        return compiled(running, batch)[0]

    # One step, so that the optimizer's state is what it is in a run and not zeros.
    return Subject(step=go, running=jax.block_until_ready(go(running)), held=held)


def _batch(size: Size, place: Any) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((size.batch, size.pixels, size.pixels, 3), np.float32)
    labels = rng.integers(0, 10, size.batch).astype(np.int32)
    batch: dict[str, jax.Array] = place.put_batch({"image": images, "label": labels})
    return batch


def _saves(name: str, folder: Path, place: Any, subject: Subject, turns: int) -> dict[str, Any]:
    """Saves by both sides in turns, and a copy of the same arrays; everything in seconds."""
    shared = subject.shared
    snapshots = Snapshots(place, subject.held)
    plain = snapshots(subject.running)
    arrays = saved_steps.state_tree(plain)
    own = {path: leaf for path, leaf in flatten(arrays).items() if path not in shared}
    taken: dict[str, list[float]] = {}

    def timed(what: str, action: Callable[..., Any], *given: Any, **named: Any) -> Any:
        start = time.perf_counter()
        value = action(*given, **named)
        taken.setdefault(what, []).append(time.perf_counter() - start)
        return value

    bare = ocp.CheckpointManager(folder / "bare", options=_bare_options())
    waited = taken.setdefault("waiting_for_digests", [])
    with _timed_digests(waited), Checkpoints(folder / "jtl") as checkpoints:
        for turn in range(1, turns + 2):
            timed("copy", lambda: [np.array(leaf, copy=True) for leaf in own.values()])
            timed("stall", _save, checkpoints, snapshots, subject.running, turn, shared)
            timed("rest", checkpoints.wait)
            timed("bare_stall", bare.save, turn, args=ocp.args.StandardSave(arrays))
            timed("bare_rest", bare.wait_until_finished)
            back = timed("restore", _fresh_restore, folder / "jtl", turn, plain)
            timed("bare_restore", bare.restore, turn, args=_as(arrays))
            assert not differences(plain, back)
    bare.close()
    row = {
        what: record.spread(seconds[1:]) for what, seconds in taken.items()
    }  # the first warms up
    size = sum(leaf.nbytes for leaf in own.values())
    return {"name": name, "bytes": size, **row} | _derived(row, folder, size)


def _save(
    checkpoints: Checkpoints,
    snapshots: Snapshots,
    running: Any,
    step: int,
    shared: dict[str, str],
) -> None:
    """What the loop does between two steps."""
    checkpoints.save(snapshots(running), Progress(step=step), shared)


def _as(arrays: Any) -> Any:
    return ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, arrays))


@contextlib.contextmanager
def _timed_digests(seconds: list[float]) -> Iterator[None]:
    """Keeps, of each save, for how long a digest was waited for once everything was written."""
    write = checkpoint.write_manifest

    def timed(folder: Path, about: Any, take: Callable[[int], str]) -> None:
        spans = []

        def own(handle: int) -> str:
            start = time.perf_counter()
            value = take(handle)
            spans.append((start, time.perf_counter()))
            return value

        write(folder, about, own)
        seconds.append(_covered(spans))

    checkpoint.write_manifest = timed
    try:
        yield
    finally:
        checkpoint.write_manifest = write


def _covered(spans: list[tuple[float, float]]) -> float:
    """Seconds within at least one span."""
    total, until = 0.0, 0.0
    for start, stop in sorted(spans):
        total += max(stop - max(start, until), 0.0)
        until = max(until, stop)
    return total


def _bare_options() -> ocp.CheckpointManagerOptions:
    return ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=True)


def _fresh_restore(folder: Path, step: int, like: Any) -> Any:
    """As a process that has just started: everything is verified, then read."""
    with Checkpoints(folder) as checkpoints:
        return jax.block_until_ready(checkpoints.restore(step, abstract(like)))


def _derived(row: dict[str, Any], folder: Path, size: int) -> dict[str, Any]:
    def of(numerator: list[float], denominator: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))

    seconds = {what: spread["samples"] for what, spread in row.items()}
    durable = _sums(seconds["stall"], seconds["rest"])
    newest = max((folder / "jtl" / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    return {
        "stall_of_copy": of(seconds["stall"], seconds["copy"]),
        "bare_stall_of_copy": of(seconds["bare_stall"], seconds["copy"]),
        "digest_share": of(seconds["waiting_for_digests"], durable),
        "durable": record.spread(durable),
        "bare_done": record.spread(_sums(seconds["bare_stall"], seconds["bare_rest"])),
        "bytes_per_second": statistics.median(size / each for each in durable),
        "step_bytes": _bytes(newest),
        "all_bytes": _bytes(folder / "jtl"),
        "bare_step_bytes": _bytes(max((folder / "bare").iterdir(), key=lambda path: path.name)),
    }


def _sums(first: list[float], second: list[float]) -> list[float]:
    return [a + b for a, b in zip(first, second, strict=True)]


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _overhead(folder: Path, place: Any, subject: Subject, size: Size) -> dict[str, Any]:
    """Blocks of steps with a save at their beginning and without, in turns."""
    running = place.put_state(place.get_state(subject.running))
    plain: list[float] = []
    saving: list[float] = []
    snapshots = Snapshots(place, {})
    with Checkpoints(folder) as checkpoints:
        for block in range(1, 2 * size.blocks + 3):
            start = time.perf_counter()
            if block % 2:
                checkpoints.save(snapshots(running), Progress(step=block))
            for _ in range(size.steps):
                running = jax.block_until_ready(subject.step(running))
            checkpoints.wait()
            (saving if block % 2 else plain).append(time.perf_counter() - start)
    plain, saving = plain[1:], saving[1:]  # the first of each warms up
    extra = [a - b for a, b in zip(saving, plain, strict=True)]
    step = statistics.median(plain) / size.steps
    return {
        "name": "overhead",
        "plain_block": record.spread(plain),
        "saving_block": record.spread(saving),
        "extra": record.spread(extra),
        "step": step,
        "overhead_every_500_steps": statistics.median(extra) / (BETWEEN * step),
    }


def _print(size: Size, rows: list[dict[str, Any]]) -> None:
    print(f"{size.model}, AdamW, {jax.devices()[0].device_kind}")
    for row in rows[:2]:
        print(
            f"{row['name']:9} {row['bytes'] / 1e6:6.2f} MB, {row['step_bytes']:,} bytes in files; "
            f"loop held up {1e3 * row['stall']['median']:.1f} ms = {row['stall_of_copy']:.2f} × a "
            f"copy (Orbax {1e3 * row['bare_stall']['median']:.1f} ms); durable in "
            f"{row['durable']['median']:.2f} s (Orbax done in {row['bare_done']['median']:.2f} s), "
            f"{100 * row['digest_share']:.1f} % of it digests; restored in "
            f"{row['restore']['median']:.2f} s (Orbax {row['bare_restore']['median']:.2f} s)"
        )
    ratio = rows[1]["full_step_bytes_of_step_bytes"]
    print(f"a head-only step is 1/{ratio:.0f} of a full one")
    share = rows[2]["overhead_every_500_steps"]
    print(
        f"a save every {BETWEEN} steps of {1e3 * rows[2]['step']:.0f} ms costs {100 * share:.2f} %"
    )


if __name__ == "__main__":
    main()
