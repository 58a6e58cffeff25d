"""One of several processes that train together; what they compute, for all who compare it.

Run as `python -m tests.engine.process_worker JSON`: starts its process as the JSON says and writes
what it saw to the JSON's `out`.
"""

import dataclasses
import json
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jtl
from jtl.engine.batch import BatchContext
from jtl.engine.evaluation import complete, gather_batch, make_predict_step
from jtl.engine.forward import LinenForward
from jtl.engine.modes import make_modes
from jtl.errors import ConfigError, DataError
from jtl.experiment.failures import fail_for_all, watch_others
from jtl.experiment.processes import start_processes
from jtl.training.compilations import Compilations
from jtl.training.together import arrays_of_first, is_first, on_first
from jtl.tree import flatten
from tests.engine.nets import batch_of, build, mini, variables_of

BATCH, STEPS = 16, 10
PLACEMENTS = {
    "pmap": lambda: jtl.parallel.pmap(),
    "mesh": lambda: jtl.parallel.mesh(),
    "parts": lambda: jtl.parallel.mesh(model=2, zero=True),
    "wide": lambda: jtl.parallel.mesh(data=1, model=8, zero=True),
}


class Masks(nn.Module):
    """Numbers that each tell one example's dropout mask."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        kept = nn.Dropout(0.5, deterministic=not train)(jnp.ones_like(x)).reshape(len(x), -1) > 0
        return jnp.sum(kept * 2.0 ** jnp.arange(kept.shape[1])[None], axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class MaskStep:
    """The dropout masks of a global batch at a step, `[batch, 1]`."""

    axis_name: str | None = None

    def bind(self, axis_name):
        return MaskStep(axis_name)

    def __call__(self, state, batch):
        full = complete(batch, self.axis_name)
        context = BatchContext(
            modes=make_modes({}, None, False),
            position=full["position"],
            mask=full["mask"],
            axis_name=self.axis_name,
        )
        variables = {"params": {}, "batch_stats": {}}
        step, rng, image = state["step"], state["rng"], full["image"][:, :2, :2]
        rows, _ = LinenForward(model=Masks()).train(variables, image, rng, step, context)
        return gather_batch(rows, self.axis_name)


def train(place):
    """What ten steps give under a placement, each process giving its share; all as numpy."""
    net = mini(widths=(4, 8), stage_sizes=(1, 1), dropout_rate=0.5, num_classes=8)
    variables = variables_of(net, dtype=jnp.float64)
    tx = optax.adamw(1e-2, weight_decay=0.1)
    step, state = build(net, variables, ["stem", "**/bn2"], tx, ema_decay=0.9)
    state = jtl.TrainState.create(state.variables, step.tx, rng=3, ema=True)
    rows = place.share(BATCH)
    compiled, running = place.compile(step), place.put_state(state)
    metrics, programs = [], []
    for index in range(STEPS):
        masked = (1, 2, 3, 8) if index % 2 else (15,)
        batch = batch_of(BATCH, 8, masked=masked, dtype=np.float64, seed=index)
        with Compilations() as count:
            own = place.put_batch({name: leaf[rows] for name, leaf in batch.items()})
            running, now = compiled(running, own)
        programs.append(count.count)
        metrics.append({name: np.asarray(value) for name, value in now.items()})
    predict = place.compile(make_predict_step(net))
    masks = place.compile(MaskStep())
    logits = np.asarray(predict(running.variables, own))
    drawn = place.put_state({"step": jnp.int32(4), "rng": jax.random.key(9)})
    last = place.get_state(running)
    assert {device for leaf in jax.tree.leaves(last) for device in leaf.devices()} == {
        place.local_devices[0]
    }
    state = dataclasses.replace(last, rng=jax.random.key_data(last.rng))
    return {
        **{f"metric/{name}": np.stack([m[name] for m in metrics]) for name in metrics[0]},
        **{f"state/{path}": np.asarray(leaf) for path, leaf in flatten(state).items()},
        "logits": logits,
        "masks": np.asarray(masks(drawn, own)),
        "programs": np.asarray(programs),
    }


def agree():
    """What the processes say to each other."""
    seen = {"first": is_first(), "told": on_first(lambda: {"from": jax.process_index()})}
    number = np.float64(jax.process_index() + 7)
    seen["broadcast"] = float(arrays_of_first({"number": number}, {"number": number})["number"])

    def fail():
        raise DataError(f"process {jax.process_index()} found nothing" + "!" * 100)

    try:
        on_first(fail)
    except DataError as error:
        seen["error"] = str(error)
    return seen


def apart():
    """What a process computes over its own devices alone, while the others do likewise."""
    place = jtl.parallel.pmap(jax.local_devices())
    rows = place.share(8)
    step = place.compile(lambda state, batch: state + jax.lax.psum(batch.sum(), "batch"))
    return [
        rows.start,
        rows.stop,
        float(step(place.put_state(jnp.ones(())), place.put_batch(np.arange(8.0)))),
    ]


def refusals():
    """The errors of placements that do not fit the processes."""
    asked = {
        "foreign": lambda: jtl.parallel.pmap(jax.devices()[:1]),
        "uneven": lambda: jtl.parallel.pmap(jax.devices()[:5]),
        "model": lambda: jtl.parallel.mesh(jax.devices()[1:7], data=3, model=2),
        "share": lambda: jtl.parallel.pmap().put_batch(np.ones((6, 2))),
    }
    said = {}
    for name, make in asked.items():
        try:
            make()
            said[name] = ""
        except ConfigError as error:
            said[name] = str(error)
    return said


def fail(process):
    """Training that one process cannot go on with, while the others wait for it."""
    watch_others(lambda text: print(f"heard {text}", flush=True))
    place = jtl.parallel.pmap()
    step = place.compile(lambda state, batch: state + jax.lax.psum(batch.sum(), "batch"))
    state = place.put_state(jnp.zeros(()))
    for index in range(5):
        if index == 3 and jax.process_index() == process:
            fail_for_all("no such image")
        state = step(state, place.put_batch(np.ones(4)))
        float(state)


def late(seconds):
    """The sum over all devices, where this process comes later than others."""
    time.sleep(seconds)
    place = jtl.parallel.pmap()
    total = place.compile(lambda state, batch: state + jax.lax.psum(batch.sum(), "batch"))
    print(float(total(place.put_state(jnp.zeros(())), place.put_batch(np.ones(4)))), flush=True)


def main():
    task = json.loads(sys.argv[1])
    try:
        start_processes(*task.get("seat", ()), timeout=task["timeout"])
    except ConfigError as error:
        print(error)
        return 2
    if "late" in task:
        late(task["late"])
    if "fails" in task:
        fail(task["fails"])
    if "out" in task:
        results = {name: train(make()) for name, make in PLACEMENTS.items()}
        arrays = {f"{place}/{k}": v for place, own in results.items() for k, v in own.items()}
        said = {"agreed": agree(), "refusals": refusals(), "apart": apart()}
        np.savez(task["out"], said=json.dumps(said), **arrays)
    return 0


if __name__ == "__main__":
    sys.exit(main())
