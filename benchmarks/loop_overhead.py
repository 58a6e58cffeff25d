"""What does the loop itself cost a step? All but the step: data, metrics, logging, hooks.

    python -m benchmarks.loop_overhead

The loop of `jtl train` runs a step that computes nothing, with all that a run has: batches from
memory or from rows of a cache, records as JSON lines and TensorBoard's every 10 steps, the
watch for signals and for skipped steps. The peer is the bare call: the same compiled step on one
batch that lies on the device already, again and again. What the loop takes more is its overhead.
Between them lies a floor: the same calls, each on a batch that is read and placed just before it,
and nothing else. Batches from memory have no thread that makes them meanwhile, as in a run, so the
loop cannot be below it; a step that computes hides both.
States are those of a head and of a whole ResNet-50 with AdamW's moments, since every call passes
all leaves in and out.
"""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jtl
from benchmarks import record
from jtl.data.pipeline import IN_THREADS, TrainOrder, train_steps
from jtl.data.reader import Reader
from jtl.data.sources.arrays import ArraySource
from jtl.training.cache.batches import RowBatches
from jtl.training.cache.splits import TrainSplit
from jtl.training.cache.tables import DeviceTable
from jtl.training.checkpoint import Checkpoints
from jtl.training.feed import Streamed
from jtl.training.garbage import rare_collections
from jtl.training.logs import Records
from jtl.training.loop import Loop
from jtl.training.phases import Phase
from jtl.training.preemption import Preemption
from jtl.training.unreadable import Unreadable

LIMIT = 200e-6  # seconds a step, on a CPU
BATCH, PIXELS, EXAMPLES = 8, 128, 256
PLACE = jtl.parallel.single()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EmptyStep:
    """Counts the step and computes nothing; it asks the trained step how modules behave."""

    real: Any

    donated = (0,)

    def __call__(self, state: Any, batch: Any) -> tuple[Any, dict[str, jax.Array]]:
        """The state of a step later, and metrics as every step has them."""
        del batch
        names = ("loss", "accuracy", "grad_norm")
        metrics = {name: jnp.zeros(()) for name in names} | {"skipped": jnp.zeros((), jnp.int32)}
        return dataclasses.replace(state, step=state.step + 1), metrics

    def modes(self, labels: Any) -> Any:
        """As the trained step says."""
        return self.real.modes(labels)


class Rows(Streamed):
    """Batches from a filled cache of features on the device, as a phase behind one has them."""

    def batches(self, phase: int, start: int, stop: int) -> Generator[Any, None, None]:
        """The placed batches of steps `start` to `stop`."""
        del phase
        row = jax.ShapeDtypeStruct((2048,), jnp.float32)
        table = DeviceTable(PLACE, blocks=1, length=EXAMPLES, row=row)
        split = TrainSplit(
            reader=_reader(),
            order=_order(),
            views=1,
            options=IN_THREADS,
            unreadable=Unreadable(_reader().source),
        )
        rows = RowBatches(PLACE, BATCH)
        for first in range(start, stop, 64):
            yield from rows.of(table, split.columns(first, 64), min(64, stop - first))


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    arguments = record.parser(__doc__).parse_args()
    model = "resnet_mini" if arguments.smoke else "resnet50"
    steps, turns = (20, 1) if arguments.smoke else (2000, 5)
    net = jtl.load_model(model, weights=None, num_classes=10, rng=0)
    rows = []
    heads = "".join(f"{name + ' µs':>10}" for name in ("loop", "floor", "bare", "more"))
    print(f"{'state':12} {'leaves':>6} {'batches':8}{heads}")
    for trained, freeze in (("head", "backbone"), ("everything", "none")):
        variables = _cut(net.variables) if trained == "head" else net.variables
        for batches in ("rows", "images"):
            row = _measure(net.model, variables, freeze, batches, steps, turns)
            rows.append({"state": trained, "batches": batches, **row})
            figures = [row[name]["median"] for name in ("loop", "floor", "bare")]
            numbers = "".join(f"{1e6 * each:10.0f}" for each in (*figures, row["overhead"]))
            print(f"{trained:12} {row['leaves']:6} {batches:8}{numbers}")
    print(record.write(arguments.results, "loop_overhead", rows, limit=LIMIT, steps=steps))


def _measure(
    model: Any, variables: Any, freeze: str, batches: str, steps: int, turns: int
) -> dict[str, Any]:
    phase = _phase(model, variables, freeze, steps)
    state = jtl.TrainState.create(variables, phase.tx, rng=0)
    sides: dict[str, list[float]] = {"loop": [], "floor": [], "bare": []}
    for turn in range(turns + 1):
        placed = _batches(batches, 0, 1)
        own = {
            "loop": _loop(phase, variables, batches, steps),
            "floor": _calls(phase, state, _batches(batches, 0, steps + 1)),
            "bare": _calls(phase, state, itertools.repeat(next(placed), steps + 1)),
        }
        if turn:  # the first turn compiles
            for name, seconds in own.items():
                sides[name].append(seconds)
    figures = {name: record.spread(samples) for name, samples in sides.items()}
    overhead = figures["loop"]["median"] - figures["bare"]["median"]
    return {"leaves": len(jax.tree.leaves(state)), **figures, "overhead": overhead}


def _loop(phase: Phase, variables: Any, batches: str, steps: int) -> float:
    """Seconds a step from the first step's record to the last's."""
    marks: list[float] = []

    def mark(event: Any) -> None:
        if type(event).__name__ == "Stepped":
            marks.append(time.perf_counter())

    kind = Rows if batches == "rows" else Streamed
    with tempfile.TemporaryDirectory() as folder, Preemption(3600.0) as stop:
        path = Path(folder)
        with Checkpoints(path) as checkpoints, Records(path, 0) as records:
            Loop(
                phases=(phase,),
                order=_order(),
                feed=kind(
                    read=_read,
                    place=PLACE,
                    classes=10,
                    check=None,
                    ahead=not _reader().in_memory,
                ),
                place=PLACE,
                checkpoints=checkpoints,
                monitor=None,
                listeners=(records, mark),
                evaluate_every=1e9,
                log_every=10,
                stop=stop,
            ).run(variables, seed=0)
    return (marks[-1] - marks[0]) / (steps - 10)


def _calls(phase: Phase, state: Any, batches: Iterable[Any]) -> float:
    """Seconds of a call of the compiled step by itself, with what it takes to make its batch."""
    compiled, running, taken = PLACE.compile(phase.step), PLACE.put_state(state), iter(batches)
    running, metrics = jax.block_until_ready(compiled(running, next(taken)))
    with rare_collections():  # as in the loop, which is not to look faster for that
        start, count = time.perf_counter(), 0
        for batch in taken:
            running, metrics = compiled(running, batch)
            count += 1
        jax.block_until_ready((running, metrics))
        return (time.perf_counter() - start) / count


def _batches(kind: str, start: int, stop: int) -> Iterator[Any]:
    """Placed batches, each made when it is asked for."""
    if kind == "images":
        return (PLACE.put_batch(batch) for batch in _read(start, stop))
    return Rows(read=_read, place=PLACE, classes=10, check=None).batches(0, start, stop)


def _phase(model: Any, variables: Any, freeze: str, steps: int) -> Phase:
    params = variables["params"]
    stages = tuple(name for name in model.stages if name in params)
    labels = jtl.freeze_labels(params, "none" if stages == ("head",) else freeze, stages)
    tx = jtl.partition_optimizer(optax.adamw(1e-3), labels)
    real = jtl.make_train_step(model, tx, freeze=freeze)
    return Phase(
        start=0,
        stop=steps,
        freeze=freeze,
        labels=labels,
        step=EmptyStep(real=real),
        tx=tx,
        rate=optax.constant_schedule(1e-3),
    )


def _cut(variables: Any) -> dict[str, Any]:
    """The part behind the boundary, which is all that a cached head's steps pass in and out."""
    return {"params": {"head": variables["params"]["head"]}, "batch_stats": {}}


def _order() -> TrainOrder:
    return TrainOrder(indices=np.arange(EXAMPLES), batch_size=BATCH, seed=0)


def _read(start: int, stop: int) -> Generator[Any, None, None]:
    return train_steps(_reader(), _order(), start=start, stop=stop)


def _reader() -> Reader:
    source = ArraySource(
        images=np.zeros((EXAMPLES, PIXELS, PIXELS, 3), np.uint8),
        labels=np.zeros(EXAMPLES, np.int32),
        classes=tuple("0123456789"),
    )
    return Reader(source=source, size=PIXELS, fit=lambda image: image)


if __name__ == "__main__":
    main()
