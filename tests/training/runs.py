"""A loop over a linear network, small enough to be run many times."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jtl
from jtl.data.pipeline import TrainOrder, train_steps
from jtl.data.reader import Reader
from jtl.data.sources.arrays import ArraySource
from jtl.training.checkpoint import Checkpoints
from jtl.training.evaluate import Evaluation
from jtl.training.feed import Streamed
from jtl.training.loop import Loop
from jtl.training.phases import Phase

EXAMPLES, BATCH = 10, 4
RNG = np.random.default_rng(0)
SOURCE = ArraySource(
    images=RNG.integers(0, 256, (EXAMPLES, 2, 2, 3), dtype=np.uint8),
    labels=RNG.integers(0, 3, EXAMPLES).astype(np.int32),
    classes=("a", "b", "c"),
)
READER = Reader(source=SOURCE, size=SOURCE.images.shape[1], fit=lambda image: image)
VARIABLES = {
    "params": {
        "stem": {"kernel": jnp.asarray(RNG.normal(size=(12, 5)), jnp.float32)},
        "head": {"kernel": jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32)},
    },
    "batch_stats": {"hidden": {"mean": jnp.zeros(5)}},
}
ORDER = TrainOrder(indices=np.arange(EXAMPLES), batch_size=BATCH, seed=3)


def linear(variables, images, train, rngs, axis_name=None):
    """Two matrices, with a running mean between them and noise in training."""
    params, stats = variables["params"], variables["batch_stats"]
    hidden = images.reshape(len(images), -1) @ params["stem"]["kernel"]
    if train:
        noise = jax.vmap(lambda key: jax.random.normal(key, (5,)))(rngs["dropout"])
        hidden = hidden * (1 + 0.1 * noise)
        mean = hidden.mean(0) if axis_name is None else jax.lax.pmean(hidden.mean(0), axis_name)
        mean = 0.9 * stats["hidden"]["mean"] + 0.1 * mean
        stats = {"hidden": {"mean": mean}}
    return (hidden - stats["hidden"]["mean"][None]) @ params["head"]["kernel"], stats


def phase(start, stop, freeze, rate=0.1, option=1, **options):
    """Steps `start` to `stop` with Adam, falling linearly to 0."""
    labels = jtl.freeze_labels(VARIABLES["params"], freeze)
    schedule = optax.linear_schedule(rate, 0.0, stop - start)
    tx = jtl.partition_optimizer(optax.adam(schedule), labels)

    def prepare(batch: Mapping, keys):
        return {"image": batch["image"].astype(jnp.float32) / 255}

    step = jtl.make_train_step(linear, tx, freeze=freeze, prepare=prepare, **options)
    return Phase(
        option=option,
        start=start,
        stop=stop,
        freeze=freeze,
        labels=labels,
        step=step,
        tx=tx,
        rate=lambda step: schedule(step - start),
    )


PHASES = (phase(0, 5, "stem", option=0), phase(5, 10, "none"))


def scripted(values, name="accuracy"):
    """A validation whose metric takes these values, one after the other."""
    left = iter(values)
    return lambda variables: {name: next(left), "loss": 1.0}


def read(start, stop):
    """The host's batches of these steps."""
    return train_steps(READER, ORDER, start=start, stop=stop)


def right_half_the_time(variables):
    """A validation that never changes."""
    return {"accuracy": 0.5, "loss": 1.0}


def run_loop(workdir, *, seed=3, listeners=(), validate=right_half_the_time, **changes):
    """Runs the loop in a folder; what it was given and what came of it."""
    place = changes.get("place", jtl.parallel.single())
    check = validate and (lambda variables: Evaluation(metrics=validate(variables)))
    batches = changes.pop("batches", read)
    with Checkpoints(workdir) as checkpoints:
        fields = {
            "phases": PHASES,
            "order": ORDER,
            "feed": Streamed(read=batches, place=place, classes=3, check=check),
            "place": place,
            "checkpoints": checkpoints,
            "monitor": "accuracy",
            "listeners": listeners,
            "evaluate_every": 1.0,
            "log_every": 1,
        }
        outcome = Loop(**{**fields, **changes}).run(VARIABLES, seed)
        return outcome.state, outcome.progress


class InterruptionError(Exception):
    """Stands for whatever ends a process between two steps."""


def interrupt_at(step, kind):
    """A listener that interrupts a run when it hears of this kind of event at a step."""

    def listen(event):
        if isinstance(event, kind) and event.step == step:
            raise InterruptionError

    return listen
