"""A run in a process of its own, small enough to be killed hundreds of times."""

import ctypes
import dataclasses
import itertools
import json
import os
import signal
import time
from pathlib import Path

import numpy as np

from jtl.study.verify.compare import compare_examples, compare_records
from jtl.study.verify.examples import NAME as EXAMPLES
from jtl.study.verify.examples import ExampleLog
from jtl.training.events import Taken

STEPS = 10


def train(folder, *, devices=None, x64=False, compiled=True, clock=0, grace=15.0, **options):
    """Trains in `folder/run`, or goes on there; 143 if it was asked to stop.

    Leaves `outcome.json` at the end, and a line in `starts.jsonl` for each start.
    """
    if devices is not None:
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    import jax

    from jtl.errors import JtlError, PreemptedError
    from jtl.training.preemption import Preemption
    from tests.training.faults.processes import move_clock

    jax.config.update("jax_enable_x64", x64)
    jax.config.update("jax_enable_compilation_cache", compiled)
    if clock:
        move_clock(clock)
    try:
        with Preemption(grace=grace) as stop:
            _train(Path(folder), stop, **options)
    except PreemptedError:
        return 143
    except JtlError as error:
        print(f"jtl: {error}")
        return 2
    return 0


def _train(folder, stop, place="single", workers=0, keep_last=2, **faults):
    import jtl
    from jtl.training.checkpoint import CheckpointOptions, Checkpoints
    from jtl.training.logs import Records
    from jtl.training.owner import owned
    from jtl.training.saved_steps import Progress

    place, run = getattr(jtl.parallel, place)(), folder / "run"
    keep = CheckpointOptions(keep_last=keep_last)
    with owned(run), Checkpoints(run, keep, {"test": "tiny"}) as checkpoints:
        notes = checkpoints.recover()
        start = (checkpoints.progress() or Progress()).step
        with (folder / "starts.jsonl").open("a") as file:
            file.write(json.dumps({"step": start, "notes": notes, "pid": os.getpid()}) + "\n")
        with Records(run, start) as records:
            heard = (ExampleLog(folder / EXAMPLES), *_faults(folder, **faults))
            loop = make_loop(checkpoints, (records, *heard), place, workers, stop)
            outcome = loop.run(variables(), 3)
            checkpoints.wait()
    write_outcome(folder, outcome.state, outcome.progress)


def variables():
    """What a run begins with, in float64 where that is on."""
    import jax
    import jax.numpy as jnp

    from tests.training import runs

    dtype = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), runs.VARIABLES)


def make_loop(checkpoints, listeners, place, workers=0, stop=None, poisoned=()):
    """A loop of two phases with every kind of state; steps in `poisoned` have no finite loss."""
    from jtl.data.pipeline import ReadOptions, TrainOrder, train_steps
    from jtl.training.feed import Streamed
    from jtl.training.loop import Loop
    from jtl.training.preemption import never
    from jtl.training.selection import EarlyStoppingOptions
    from tests.training import runs

    order = TrainOrder(indices=np.arange(runs.EXAMPLES), batch_size=8, seed=3)

    def read(start, stop):
        options = ReadOptions(workers=workers)
        batches = train_steps(runs.READER, order, start=start, stop=stop, options=options)
        for step, batch in enumerate(batches, start + 1):
            factor = np.float32("nan" if step in poisoned else 1)
            yield {**batch, "image": batch["image"].astype(np.float32) * factor}

    return Loop(
        phases=(
            runs.phase(0, STEPS // 2, "stem", option=0, ema_decay=0.9),
            runs.phase(STEPS // 2, STEPS, "none", ema_decay=0.9),
        ),
        order=order,
        feed=Streamed(read=read, place=place, classes=3, check=score),
        place=place,
        checkpoints=checkpoints,
        monitor="accuracy",
        early_stopping=EarlyStoppingOptions(patience=100),
        listeners=listeners,
        evaluate_every=2.0,
        log_every=1,
        ema=True,
        loss_scale=True,
        stop=stop or never,
        save_every=2,
    )


def _faults(folder, *, hangs=None, waits=None, dies=None):
    """A listener that at a step of the first start stays in C, waits to be told, or dies."""

    def listen(event):
        if not isinstance(event, Taken):
            return
        if event.step == hangs and len(starts(folder)) == 1:
            (folder / "hangs").write_text("")
            ctypes.CDLL(None).fault_hang()
        if event.step == waits and len(starts(folder)) == 1:
            (folder / "waits").write_text("")
            while not (folder / "go").exists():
                time.sleep(0.002)
        if event.step == dies:
            os.kill(os.getpid(), signal.SIGKILL)

    return (listen,)


def score(variables):
    """A metric of the parameters alone, which is best in the middle of the run."""
    from jtl.training.evaluate import Evaluation

    weight = float(np.asarray(variables["params"]["head"]["kernel"], np.float64).sum())
    metrics = {"accuracy": 0.5 + 0.4 * float(np.sin(23 * weight)), "loss": 1 + weight}
    return Evaluation(metrics=metrics)


def write_outcome(folder, state, progress):
    from jtl.tree import digest, flatten

    leaves = {path: digest(leaf) for path, leaf in flatten(state).items()}
    known = {k: v for k, v in dataclasses.asdict(progress).items() if k != "seconds"}
    text = json.dumps({"leaves": leaves, "progress": known}, indent=1)
    (folder / "outcome.json").write_text(text)


def outcome(folder):
    return json.loads((folder / "outcome.json").read_text())


def starts(folder):
    path = folder / "starts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def durable_steps(folder):
    """The steps that count as saved, whatever else lies there."""
    found = (folder / "run" / "checkpoints").glob("*/manifest.json")
    return sorted(int(path.parent.name) for path in found if path.parent.name.isdecimal())


def unlike(reference, folder):
    """What differs between the ends of two runs; nothing if they agree in every bit."""
    a, b = outcome(reference), outcome(folder)
    lines = [
        f"{kind} {name}: {b[kind].get(name)} and not {a[kind].get(name)}"
        for kind in ("leaves", "progress")
        for name in {**a[kind], **b[kind]}
        if a[kind].get(name) != b[kind].get(name)
    ]
    more = (compare_examples(reference, folder), compare_records(reference, folder))
    return lines + list(itertools.chain(*more))
